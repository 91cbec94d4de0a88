import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Report, RUN_LAYOUT, writeReport } from "@trefoil/core";
import { type LossPoint, lossCurve } from "../stages/index.js";

/** A curve of a stage, smoothed for reading; the raw values stay visible. */
export const curveSeries = (name: string, curve: readonly LossPoint[]) => ({
  name,
  x: curve.map(({ step }) => step),
  y: curve.map(({ loss }) => loss),
  smooth: 0.9,
});

/** `report.html` of one or several training runs, those that have begun: loss curves and the configuration. */
export async function writeTrainingReport(
  path: string,
  title: string,
  runs: Readonly<Record<string, string>>,
  config: object,
): Promise<void> {
  const begun = Object.entries(runs).filter(([, run]) => existsSync(join(run, RUN_LAYOUT.metrics)));
  const curves = await Promise.all(begun.map(async ([name, run]) => curveSeries(name, await lossCurve(run))));
  const report: Report = {
    title,
    sections: [
      {
        kind: "lines",
        width: "full",
        title: "Training loss",
        x: { label: "step" },
        y: { label: "loss", unit: "nats per token" },
        series: curves,
      },
      { kind: "text", title: "Configuration", text: JSON.stringify(config, null, 2), collapsed: true },
    ],
  };
  await writeReport(join(path, RUN_LAYOUT.report), report);
}
