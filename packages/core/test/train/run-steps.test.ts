import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { parse } from "yaml";
import {
  AdamW,
  compile,
  Linear,
  mean,
  namedState,
  readMetricsFile,
  requireFreeOutput,
  rowsOfStep,
  runSteps,
  scalarsOf,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

const steps = 9;
const inputs = Float32Array.from({ length: 5 * 4 }, (_, i) => Math.sin(i));

/** A linear map that learns to give 1; `stopAt` aborts within that step. */
async function train(run: string, { stopAt = -1, resume = false, rate = 0.1, outputs = 2 } = {}) {
  const model = new Linear(4, outputs, { bias: false });
  model.weight.set(Float32Array.from({ length: outputs * 4 }, (_, i) => Math.cos(i)));
  const optimizer = new AdamW(model.parameters(), { learningRate: rate });
  const update = compile((x: Tensor) => {
    const { value, grads } = valueAndGrad(() => mean(model.forward(x).sub(1).square()), model.parameters());
    return { loss: value, gradNorm: optimizer.apply(grads).gradientNorm };
  });
  const stopping = new AbortController();
  const drawn: number[][] = [];
  let drawnBefore = 0;
  const completed = await runSteps(
    { run, resume, signal: stopping.signal },
    {
      title: "linear",
      config: { rate },
      settings: { steps, checkpointEvery: 4, keepCheckpoints: 1 },
      parameters: namedState({ model, optimizer }),
      state: {
        save: () => drawnBefore + drawn.length,
        restore: (saved) => {
          drawnBefore = saved as number;
        },
      },
      step: async (index) => {
        const rows = rowsOfStep(5, 3, index, 7);
        drawn.push(rows);
        if (index === stopAt) stopping.abort();
        const picked = rows.flatMap((row) => [...inputs.subarray(row * 4, row * 4 + 4)]);
        return await scalarsOf(await update(tensor(Float32Array.from(picked), { shape: [3, 4] })));
      },
    },
  );
  const weights = [...(await model.weight.data())];
  for (const parameter of namedState({ model, optimizer }).values()) parameter.dispose();
  return { completed, weights, drawn, total: drawnBefore + drawn.length };
}

it("stopped and resumed, ends with the weights and metrics of a run that never was; other settings are refused", async () => {
  const folder = await mkdtemp(join(tmpdir(), "trefoil-run-steps-"));
  const [whole, stopped] = [join(folder, "whole"), join(folder, "stopped")];
  const expected = await train(whole);
  expect(expected.completed).toBe(true);
  // Every row once an epoch.
  expect(expected.drawn.flat().slice(0, 5).toSorted()).toEqual([0, 1, 2, 3, 4]);
  expect((await train(stopped, { stopAt: 5 })).completed).toBe(false);
  await expect(train(stopped, { resume: true, rate: 0.2 })).rejects.toMatchObject({
    code: "TREFOIL_RESUME",
    message: expect.stringContaining("was started with other settings, data or models (rate 0.1, not 0.2): resume"),
  });
  await expect(train(stopped, { resume: true, outputs: 3 })).rejects.toMatchObject({
    code: "TREFOIL_RESUME",
    message: expect.stringContaining('another size of "model.weight"'),
  });
  // What was refused leaves no trace: the file says what the checkpoints were made with.
  expect(parse(readFileSync(join(stopped, "config.yaml"), "utf8"))).toEqual({ rate: 0.1 });
  const resumed = await train(stopped, { resume: true });
  expect(resumed).toMatchObject({ completed: true, weights: expected.weights, total: steps });
  expect(resumed.drawn).toEqual(expected.drawn.slice(6));
  const losses = async (run: string) =>
    (await readMetricsFile(join(run, "metrics.jsonl"))).map(({ step, values }) => [step, values.loss]);
  expect(await losses(stopped)).toEqual(await losses(whole));

  expect(existsSync(whole)).toBe(true);
  expect(() => requireFreeOutput({ output: whole })).toThrow(/exists already/);
  requireFreeOutput({ output: whole, overwrite: true });
  requireFreeOutput({ output: join(folder, "new"), run: join(folder, "new-run") });
  requireFreeOutput({ output: join(folder, "runs", "new"), run: join(folder, "runs") });
  // Put in place as a whole, the output would meet the run, or take its place.
  for (const run of [join(folder, "new"), join(folder, "new", "run"), `${folder}/./new/../new`])
    expect(() => requireFreeOutput({ output: join(folder, "new"), run, overwrite: true })).toThrow(/is in the output/);
});

it("an output that could not be written at the end is refused at the start", async () => {
  const folder = await mkdtemp(join(tmpdir(), "trefoil-output-"));
  const refused = expect.objectContaining({ code: "TREFOIL_OUTPUT_FOLDER" });
  writeFileSync(join(folder, "file"), "");
  for (const output of [join(folder, "file", "model"), join(folder, "file", "models", "model")])
    expect(() => requireFreeOutput({ output })).toThrow(refused);
  mkdirSync(join(folder, "fixed"), { mode: 0o500 });
  const output = join(folder, "fixed", "models", "model");
  // Whoever is root may write everywhere.
  if (process.getuid?.() === 0) requireFreeOutput({ output });
  else expect(() => requireFreeOutput({ output })).toThrow(refused);
  rmSync(folder, { recursive: true });
});
