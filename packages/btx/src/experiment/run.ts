import { join } from "node:path";
import { ByteTokenizer, type ExperimentOptions, type RunUnit, runUnits } from "@trefoil/core";
import { closeDomains, openDomains } from "../domains/index.js";
import { runArm } from "./arm.js";
import { windowsOf } from "./measure.js";
import { SeedModels } from "./models.js";
import { armName, armsOf, domainNames, type ExperimentSettings, heldOutShare } from "./plan.js";
import { type ResultRow, resultKey } from "./results.js";

const open = (directory: string, { maxBytes }: ExperimentSettings) =>
  openDomains(Object.fromEntries(domainNames.map((name) => [name, `@${name}`])), {
    tokenizer: new ByteTokenizer(),
    cache: join(directory, "data"),
    heldOutShare,
    maxBytes,
  });

/** Runs the arms of a seed that have no result. */
export const runSeed: RunUnit<ExperimentSettings, number, ResultRow> = async (request, signal, emit) => {
  const { directory, settings, unit: seed, known } = request;
  let [began, before] = [Date.now(), process.cpuUsage()];
  const domains = await open(directory, settings);
  try {
    const models = new SeedModels(join(directory, `seed-${seed}`), seed, settings, domains);
    const windows = windowsOf(domains, settings);
    for (const arm of armsOf(settings)) {
      if (known.includes(resultKey({ arm: armName(arm), seed }))) continue;
      if (signal?.aborted) return false;
      const row = await runArm(arm, models, windows);
      const { user, system } = process.cpuUsage(before);
      const ended = Date.now();
      await emit({ ...row, work: { began, ended, cpu: (user + system) / 1e6 } });
      [began, before] = [ended, process.cpuUsage()];
    }
    return true;
  } finally {
    closeDomains(domains);
  }
};

/** Runs every arm of every seed that has no result yet. Returns whether all were run. */
export async function runExperiment(
  directory: string,
  settings: ExperimentSettings,
  options: ExperimentOptions,
): Promise<boolean> {
  return await runUnits(options, {
    ...{ directory, settings },
    // More seeds, or more shares of the compute, are more lines of the same experiment.
    mayChange: ["seeds", "shares"],
    prepare: async () => closeDomains(await open(directory, settings)),
    units: Array.from({ length: settings.seeds }, (_, i) => i + 1),
    keysOf: (seed) => armsOf(settings).map((arm) => resultKey({ arm: armName(arm), seed })),
    keyOf: resultKey,
    run: runSeed,
    worker: new URL("./worker.js", import.meta.url),
    describe: ({ seed, arm, mean, switching }) =>
      `seed ${seed}, ${arm}: ${mean.toFixed(3)} bits/byte, switching ${switching.toFixed(3)}`,
  });
}
