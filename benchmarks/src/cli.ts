import { defineCommand, runCli } from "@trefoil/core";
import { z } from "zod";
import { measureTrainStep, sizes } from "./train-step.js";

const names = Object.keys(sizes) as [keyof typeof sizes, ...(keyof typeof sizes)[]];

const train = defineCommand({
  name: "train",
  summary: "tokens per second of training steps, beside PyTorch with transformers",
  schema: z.strictObject({
    sizes: z.array(z.enum(names)).default(["1m", "10m"]).describe("models, by rough number of parameters"),
    experts: z.number().int().min(0).default(0).describe("experts per layer, two of them active; 0 is dense"),
    batch: z.number().int().positive().default(8).describe("sequences per step"),
    sequence: z.number().int().positive().default(256).describe("tokens per sequence"),
    rounds: z.number().int().positive().default(7).describe("alternations with the peer"),
    steps: z.number().int().positive().default(3).describe("steps per round"),
    python: z.string().optional().describe("Python that has torch and transformers; without it the peer is missing"),
    torchCompile: z.boolean().default(false).describe("compare with torch.compile instead of eager"),
  }),
  async run(config) {
    for (const size of config.sizes) {
      const { experts, batch, sequence, rounds, python, torchCompile } = config;
      const options = { size, experts, batch, sequence, rounds, stepsPerRound: config.steps, python, torchCompile };
      const { parameters, trefoil, torch, speedup } = await measureTrainStep(options, (round) => {
        process.stderr.write(`${size}: round ${round + 1} of ${rounds}\r`);
      });
      const text = ({ median, low, high }: { median: number; low: number; high: number }, digits: number) =>
        `${median.toFixed(digits)} (${low.toFixed(digits)} to ${high.toFixed(digits)})`;
      console.log(`${size}: ${parameters} parameters, batch ${batch} x ${sequence}`);
      console.log(`  trefoil  ${text(trefoil, 0)} tokens/s`);
      if (torch && speedup) {
        console.log(`  torch    ${text(torch, 0)} tokens/s${torchCompile ? " (compiled)" : ""}`);
        console.log(`  ratio    ${text(speedup, 2)}`);
      } else console.log("  torch    missing: name a Python that has it with --python");
    }
  },
});

process.exitCode = await runCli({
  name: "bench",
  version: "0.1.0",
  summary: "measures Trefoil beside its peers",
  commands: [train],
  argv: process.argv.slice(2),
});
