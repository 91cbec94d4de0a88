import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mix } from "@trefoil/btx";
import { saveModel } from "@trefoil/core";
import type { Case } from "../measure/side.js";
import { buildModel, denseParameters, type ModelSize, modelConfig } from "./models.js";

/** Branch-Train-MiX's merge of dense checkpoints into one mixture, verified, from disk to disk. */
function merge(size: ModelSize, experts: number): Case {
  const { all, feedForward } = denseParameters(size);
  const { hiddenSize, layers } = modelConfig(size, 0, 0);
  // Everything but the feed-forward layers is averaged, those are kept, and a router is added. f32.
  const mixtureBytes = 4 * (all + (experts - 1) * feedForward + layers * experts * hiddenSize);
  return {
    family: "merge",
    name: `${experts} x ${size} into one mixture`,
    unit: "GB/s",
    amount: experts * 4 * all + mixtureBytes,
    async open() {
      const folder = await mkdtemp(join(tmpdir(), "trefoil-bench-"));
      const branches = Array.from({ length: experts }, (_, i) => join(folder, `branch-${i}`));
      const config = { ...modelConfig(size, 0, 256), family: "llama" as const, eosTokenIds: [0] };
      const branch = buildModel(size, 0, 256);
      for (const path of branches) await saveModel(branch, path, { config });
      branch.dispose();
      return {
        side: {
          name: "trefoil",
          async run(repetitions) {
            const begun = performance.now();
            for (let i = 0; i < repetitions; i++) {
              const { bytes } = await mix({ experts: branches, output: join(folder, "mixture"), overwrite: true });
              if (bytes !== mixtureBytes)
                throw new Error(`the mixture has ${bytes} bytes of tensors, not ${mixtureBytes}`);
            }
            return { seconds: (performance.now() - begun) / 1000 / repetitions };
          },
        },
        details: { mixtureBytes },
        close: () => rm(folder, { recursive: true, force: true }),
      };
    },
  };
}

export const mergeCases = (quick: boolean): Case[] => [quick ? merge("tiny", 2) : merge("10m", 4)];
