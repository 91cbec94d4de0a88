import { join } from "node:path";
import { writeFileAtomic } from "../io/atomic-file.js";
import type { Progress } from "../train/index.js";
import { type Section, writeReport } from "../train/report/index.js";

export interface ExperimentReport {
  title: string;
  /** Paired seeds that were asked for. */
  seeds: number;
  /** Whether all arms have their result. */
  completed: boolean;
  sections: readonly Section[];
  /** The results as Markdown. */
  summary: string;
}

/** Writes `report.html` and `summary.md` into an experiment's folder, and says where. */
export async function writeExperimentReport(
  directory: string,
  progress: Pick<Progress, "log">,
  { title, seeds, completed, sections, summary }: ExperimentReport,
): Promise<void> {
  const report = join(directory, "report.html");
  const subtitle = completed ? `${seeds} paired seeds` : "Not all arms are done";
  await writeReport(report, { title, subtitle, sections });
  await writeFileAtomic(join(directory, "summary.md"), summary);
  progress.log(`${completed ? "Done" : "Stopped; the same command goes on"}. The report is in ${report}.`);
}
