import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mix } from "@trefoil/btx";
import { compile, loadModel, ModelFolder, saveModel, type Tensor } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose, fixturePath, readFixture } from "./fixture.js";

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "trefoil-mix-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

// Equal experts make a mixture compute what the dense model does, whatever the router says: so the logits that
// transformers gave for the dense folder are what the mixture must give. check_with_transformers.py asserts the same in Python.
describe.each(["mha", "gqa", "tied", "llama3"])("a mixture of two copies of %s", (variant) => {
  it.each(["legacy", "fused"] as const)(
    "gives the logits that transformers gave for the copy, %s layout",
    async (layout) => {
      const folder = fixturePath(`llama/${variant}`);
      const output = join(scratch, `${variant}-${layout}`);
      await mix({ experts: [folder, folder], output, layout });
      const { model, config } = await loadModel(output);
      expect(config).toMatchObject({ family: "mixtral", experts: 2, expertsPerToken: 2 });
      const { tensors } = await readFixture(join(folder, "expected.safetensors"));
      const logits = await compile((tokens: Tensor) => model.logits(tokens))(tensors.get("input_ids")!);
      await expectClose("logits", logits, tensors.get("logits")!, 1e-5);
    },
  );
});

it.each(["gqa", "tied", "mixtral"])("saves %s as it was: the same names, shapes and bytes", async (variant) => {
  const source = fixturePath(`llama/${variant}`);
  const output = join(scratch, `saved-${variant}`);
  const { model, config } = await loadModel(source);
  await saveModel(model, output, { config });
  await using before = await ModelFolder.open(source);
  await using after = await ModelFolder.open(output);
  expect([...after.tensors.keys()].sort()).toEqual([...before.tensors.keys()].sort());
  for (const name of before.tensors.keys()) {
    expect(after.tensors.get(name)!.shape).toEqual(before.tensors.get(name)!.shape);
    expect(Buffer.compare(await after.read(name), await before.read(name)), name).toBe(0);
  }
});
