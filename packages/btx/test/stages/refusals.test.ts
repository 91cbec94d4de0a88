import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { branchCommand } from "../../src/commands/branch.js";
import { ensembleCommand } from "../../src/commands/ensemble.js";
import { quickstartCommand } from "../../src/commands/quickstart.js";
import { reproduceCommand } from "../../src/commands/reproduce.js";
import { seedCommand } from "../../src/commands/seed.js";
import { finetuneMixture, mix, openDomains, trainBranches, trainSeed } from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";
import { tinyDomains, tinySettings, tinySizes, tokenizer } from "./tiny.js";

const config = { maxPositions: 64, hiddenSize: 16, headDim: 4, intermediateSize: 24 };

it.each(["all", "feed-forward"] as const)(
  "a mixture is no seed: refused before anything is written, scope %s",
  async (scope) => {
    const folder = temporaryFolder();
    const experts = [1, 2].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed, config }));
    const seed = join(folder, "moe");
    await mix({ experts: await Promise.all(experts), output: seed });
    const [output, run] = [join(folder, "experts"), join(folder, "run")];
    const refused = {
      code: "BTX_MODEL",
      message: expect.stringMatching(/moe is a mixture of experts already.*btx finetune/),
    };
    const branch = { seed, replay: 0, scope, settings: tinySettings, output, run };
    await expect(trainBranches({ ...branch, domains: await tinyDomains(folder) })).rejects.toMatchObject(refused);
    for (const jobs of [1, 2]) {
      const command = branchCommand.schema.parse({ seed, output, run, scope, jobs });
      await expect(branchCommand.run(command, {} as never)).rejects.toMatchObject(refused);
    }
    expect([existsSync(output), existsSync(run)]).toEqual([false, false]);
  },
);

it("rows longer than the context are refused by the name of their flag, before anything is written", async () => {
  const folder = temporaryFolder();
  const seed = await writeCheckpoint(join(folder, "seed"), { seed: 1, config });
  const model = join(folder, "moe");
  await mix({ experts: [seed, seed], output: model });
  const [output, run, domains] = [join(folder, "out"), join(folder, "run"), await tinyDomains(folder)];
  const common = { domains, settings: { ...tinySettings, sequence: 65 }, output, run };
  const refused = { code: "BTX_OPTIONS", message: expect.stringMatching(/^--train.sequence is 65,.* 64/) };
  await expect(trainSeed({ ...common, sizes: tinySizes, tokenizer })).rejects.toMatchObject(refused);
  await expect(trainBranches({ ...common, seed, replay: 0, scope: "all" })).rejects.toMatchObject(refused);
  const balance = { form: "btx", coefficient: 0 } as const;
  await expect(finetuneMixture({ ...common, model, scope: "all", balance })).rejects.toMatchObject(refused);
  expect([existsSync(output), existsSync(run)]).toEqual([false, false]);
  for (const [{ schema }, given, path] of [
    [seedCommand, { output, train: { sequence: 513 } }, ["train", "sequence"]],
    [quickstartCommand, { train: { sequence: 257 } }, ["train", "sequence"]],
    [reproduceCommand, { output, sequence: 130 }, ["sequence"]],
  ] as const)
    expect(schema.safeParse(given).error?.issues).toEqual([expect.objectContaining({ path, code: "custom" })]);
});

it("what an option would silently do nothing for is refused", async () => {
  const models = ["a", "b"];
  const both = ensembleCommand.schema.parse({ models, prompt: "x", weights: "code" });
  await expect(ensembleCommand.run(both, {} as never)).rejects.toThrow(/give --prompt or --weights, one of them/);
});

it("a built-in domain too small to hold anything out says which limits made it so", async () => {
  const cache = temporaryFolder();
  const options = { tokenizer, cache, maxBytes: 1000, heldOutShare: 1e-9 };
  await expect(openDomains({ prose: "@prose" }, options)).rejects.toMatchObject({
    code: "DATA_EMPTY",
    message: expect.stringMatching(/@prose: with data.maxBytes 1000 and data.heldOut 1e-9 no document is held out/),
  });
  await expect(openDomains({ prose: "@prose" }, { ...options, roots: [cache] })).rejects.toThrow(/found no text/);
});
