import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadCheckpoint, saveCheckpoint } from "@trefoil/core";
import type { Case } from "../measure/side.js";

/** Checkpoints of `tensors` f32 tensors of `megabytes` each: hashed, synced and renamed; read back and checked. */
function checkpoint(kind: "save" | "load", tensors: number, megabytes: number): Case {
  const values = megabytes * 2 ** 18;
  return {
    family: "checkpoint",
    name: `${kind} ${tensors}x${megabytes} MiB`,
    unit: "GB/s",
    amount: tensors * values * 4,
    async open() {
      const folder = await mkdtemp(join(tmpdir(), "trefoil-bench-"));
      const entries = Array.from({ length: tensors }, (_, t) => {
        const data = new Float32Array(values).map((_, i) => (i + t) / values);
        return [`layer.${t}`, { dtype: "F32" as const, shape: [values], data }] as const;
      });
      const content = { tensors: Object.fromEntries(entries), state: { cursor: 0 } };
      const saved = await saveCheckpoint(folder, 0, content, { keepLast: 1 });
      let step = 0;
      const work = {
        save: () => saveCheckpoint(folder, ++step, content, { keepLast: 1 }),
        load: () => loadCheckpoint(saved),
      }[kind];
      return {
        side: {
          name: "trefoil",
          async run(repetitions) {
            const begun = performance.now();
            for (let i = 0; i < repetitions; i++) await work();
            return { seconds: (performance.now() - begun) / 1000 / repetitions };
          },
        },
        close: () => rm(folder, { recursive: true, force: true }),
      };
    },
  };
}

export const checkpointCases = (quick: boolean): Case[] =>
  (["save", "load"] as const).map((kind) => (quick ? checkpoint(kind, 2, 1) : checkpoint(kind, 16, 8)));
