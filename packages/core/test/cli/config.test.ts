import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { jsonSchema, resolveConfig } from "../../src/cli/index.js";
import { editDistance, nearest } from "../../src/cli/nearest.js";
import { runInMemory } from "./run-in-memory.js";
import { finetune, schema } from "./sample-command.js";

const command = { name: "btx finetune", schema };
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "trefoil-cli-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function configFile(name: string, text: string): Promise<string> {
  const file = path.join(folder, name);
  await writeFile(file, text);
  return file;
}

async function problemsOf(flags: string[], files: string[] = []): Promise<string> {
  const error: unknown = await resolveConfig(command, { flags, files }).catch((reason: unknown) => reason);
  expect(error).toMatchObject({ code: "CONFIG_INVALID" });
  return (error as Error).message;
}

describe("precedence", () => {
  test("flags win over files, later files over earlier ones, files over defaults", async () => {
    const base = await configFile(
      "base.yaml",
      "out: base\ntopK: 3\ntrain:\n  steps: 10\n  learningRate: 1e-2\nexperts: {code: a}\n",
    );
    const tiny = await configFile("tiny.yaml", "train: {steps: 20}\nexperts: {math: b}\n");
    const config = await resolveConfig(command, { files: [base, tiny], flags: ["--out=flag", "--train.steps", "30"] });
    expect(config).toMatchObject({ out: "flag", topK: 3, experts: { code: "a", math: "b" } });
    expect(config.train).toEqual({
      steps: 30,
      learningRate: 0.01,
      warmup: "auto",
      schedule: { kind: "cosine", floor: 0.1 },
    });
  });

  test("a group with a default keeps it for the siblings of a given field", async () => {
    const config = await resolveConfig(command, { flags: ["--out=x", "--train.schedule.floor=0"] });
    expect(config.train.schedule).toEqual({ kind: "cosine", floor: 0 });
  });

  test("another variant replaces the file's variant, fields and all", async () => {
    const file = await configFile("cosine.yaml", "out: x\ntrain: {schedule: {kind: cosine, floor: 0.5}}\n");
    const over = await configFile("step.yaml", "train: {schedule: {kind: step, every: 5}}\n");
    const config = await resolveConfig(command, { files: [file, over] });
    expect(config.train.schedule).toEqual({ kind: "step", every: 5, factors: [0.5] });
  });

  test("an empty file changes nothing", async () => {
    const file = await configFile("empty.yaml", "# nothing\n");
    expect(await resolveConfig(command, { files: [file], flags: ["--out", "x"] })).toMatchObject({ out: "x", topK: 2 });
  });
});

describe("flags", () => {
  const given: [string, string[], object][] = [
    ["booleans", ["--resume"], { resume: true }],
    ["negated booleans", ["--resume", "--no-resume"], { resume: false }],
    ["booleans with a word", ["--resume", "false"], { resume: false }],
    ["lists by comma", ["--domains", "code,math"], { domains: ["code", "math"] }],
    ["lists by repetition", ["--domains=math", "--domains=code"], { domains: ["math", "code"] }],
    ["lists as JSON", ["--domains", '["prose"]'], { domains: ["prose"] }],
    [
      "lists of objects",
      ["--limits", '{"domain":"a,b","bytes":1}', "--limits", '{"domain":"c","bytes":2}'],
      {
        limits: [
          { domain: "a,b", bytes: 1 },
          { domain: "c", bytes: 2 },
        ],
      },
    ],
    [
      "records by key, verbatim",
      ["--experts.MyCode", "a", "--experts.math=b=c"],
      { experts: { MyCode: "a", math: "b=c" } },
    ],
    ["records as JSON", ["--experts", '{"a.b":"c"}'], { experts: { "a.b": "c" } }],
    ["null", ["--seed", "null"], { seed: null }],
    ["negative numbers", ["--seed", "-7"], { seed: -7 }],
    ["digit separators", ["--train.steps", "1_000_000"], { train: { steps: 1_000_000 } }],
    ["exponents", ["--train.learning-rate", "3e-5"], { train: { learningRate: 3e-5 } }],
    ["either arm of a union", ["--train.warmup", "5"], { train: { warmup: 5 } }],
    ["text that looks like a number", ["--experts.a", "12"], { experts: { a: "12" } }],
    ["the separator that pnpm passes on", ["--", "--resume"], { resume: true }],
    [
      "a whole group as JSON, then one field",
      ["--sampling", '{"temperature":1}', "--sampling.betas", "0.9,0.99"],
      {
        sampling: { temperature: 1, betas: [0.9, 0.99] },
      },
    ],
    [
      "a variant's own fields",
      ["--train.schedule.every", "7", "--train.schedule.kind", "step"],
      {
        train: { schedule: { kind: "step", every: 7 } },
      },
    ],
  ];
  test.each(given)("take %s", async (_, flags, expected) => {
    expect(await resolveConfig(command, { flags: ["--out", "x", ...flags] })).toMatchObject(expected);
  });

  test("refuse to reach a prototype", async () => {
    expect(await problemsOf(["--out=x", "--experts.__proto__", "y"])).toContain("--experts.__proto__: unknown flag");
  });
});

describe("problems", () => {
  test("an unknown flag suggests the nearest, also by last segment", async () => {
    expect(await problemsOf(["--out=x", "--train.lerning-rate", "1"])).toBe(
      "1 problem in the configuration of btx finetune\n\n" +
        "  --train.lerning-rate: unknown flag\n    hint  did you mean --train.learning-rate?",
    );
    expect(await problemsOf(["--out=x", "--learning-rat=1"])).toContain("did you mean --train.learning-rate?");
    expect(await problemsOf(["--out=x", "--zzzzzz"])).toContain("see --help for every flag");
  });

  test("an unknown key in a file suggests the nearest and names the line", async () => {
    const file = await configFile("typo.yaml", "out: x\ntrain:\n  stpes: 3\ntemperature: 1\n");
    expect(await problemsOf([], [file])).toBe(
      "2 problems in the configuration of btx finetune\n\n" +
        `  train.stpes: unknown key\n    got   from ${file}:3\n    hint  did you mean train.steps?\n` +
        `  temperature: unknown key\n    got   from ${file}:4\n    hint  did you mean sampling.temperature?`,
    );
  });

  test("a wrong value shows what was found, whence, and what is expected", async () => {
    const file = await configFile("wrong.yaml", "out: x\ntrain:\n  learningRate: -1\n");
    expect(await problemsOf(["--top-k", "two", "--domains", "cod"], [file])).toBe(
      "3 problems in the configuration of btx finetune\n\n" +
        '  domains.0: must be one of code, prose, math\n    got   "cod", from --domains\n    hint  did you mean code?\n' +
        '  topK: must be a number\n    got   "two", from --top-k\n' +
        "    hint  Experts for each token (integer ≥ 1; default 2)\n" +
        `  train.learningRate: must be > 0\n    got   -1, from ${file}:3\n` +
        "    hint  Peak learning rate, reached after warm-up (number > 0; default 0.0003)",
    );
  });

  test("what is missing is named with its flag", async () => {
    expect(await problemsOf(["--train.schedule.kind=step"])).toBe(
      "2 problems in the configuration of btx finetune\n\n" +
        "  out: required, but not given\n    hint  Folder to write (string, not empty); give --out\n" +
        "  train.schedule.every: required, but not given\n" +
        "    hint  Distance between drops (integer > 0, steps); give --train.schedule.every",
    );
  });

  test("a wrong discriminator is one problem, not one for each field", async () => {
    const text = await problemsOf(["--out=x", "--train.schedule.kind=stp", "--train.schedule.every=3"]);
    expect(text).toContain("1 problem");
    expect(text).toContain("train.schedule.kind: must be one of cosine, step");
    expect(text).toContain("did you mean step?");
  });

  test("a field of another variant is unknown", async () => {
    const text = await problemsOf([
      "--out=x",
      "--train.schedule.kind=step",
      "--train.schedule.every=3",
      "--train.schedule.floor=0",
    ]);
    expect(text).toContain("train.schedule.floor: unknown key");
  });

  test("a flag without its value", async () => {
    expect(await problemsOf(["--out", "--resume"])).toContain(
      "--out: needs a value\n    hint  write --out VALUE or --out=VALUE",
    );
  });

  test("YAML that does not parse, or is no mapping, or does not exist", async () => {
    const broken = await configFile("broken.yaml", "a: [1\n");
    const list = await configFile("list.yaml", "- 1\n");
    await expect(resolveConfig(command, { files: [broken] })).rejects.toThrow(/broken\.yaml is not valid YAML/);
    await expect(resolveConfig(command, { files: [list] })).rejects.toThrow(/must hold a mapping/);
    await expect(resolveConfig(command, { files: [path.join(folder, "none.yaml")] })).rejects.toMatchObject({
      code: "CONFIG_FILE",
    });
  });

  test("an alias bomb is refused", async () => {
    const levels = Array.from(
      { length: 12 },
      (_, i) => `k${i + 1}: &k${i + 1} [${Array(10).fill(`*k${i}`).join(", ")}]`,
    );
    const file = await configFile("bomb.yaml", ["k0: &k0 [x]", ...levels].join("\n"));
    await expect(resolveConfig(command, { files: [file] })).rejects.toThrow(/cannot be expanded/);
  });
});

test("--print-config prints YAML that resolves to the same configuration", async () => {
  const flags = ["--out=x", "--train.schedule.kind=step", "--train.schedule.every=3", "--experts.a=b"];
  const { code, stdout, stderr } = await runInMemory([finetune], ["finetune", ...flags, "--print-config"]);
  expect([code, stderr]).toEqual([0, ""]);
  const file = await configFile("printed.yaml", stdout);
  expect(await resolveConfig(command, { files: [file] })).toEqual(await resolveConfig(command, { flags }));
});

test("plain zod objects are strict on the command line too, loose ones are not", async () => {
  const plain = { name: "plain", schema: z.object({ inner: z.looseObject({ a: z.number().optional() }) }) };
  expect(await resolveConfig(plain, { values: { inner: { b: 1 } } })).toEqual({ inner: { b: 1 } });
  await expect(resolveConfig(plain, { values: { outer: 1, inner: {} } })).rejects.toThrow(/outer: unknown key/);
});

test("the JSON Schema carries defaults, bounds, units, and requires only what the command line requires", () => {
  const generated = jsonSchema(finetune) as {
    required: string[];
    additionalProperties: boolean;
    properties: Record<string, { required?: string[]; properties: Record<string, object> }>;
  };
  expect(generated.required).toEqual(["out"]);
  expect(generated.additionalProperties).toBe(false);
  expect(generated.properties.train?.required).toBeUndefined();
  expect(generated.properties.sampling?.required).toEqual(["temperature"]);
  expect(generated.properties.train?.properties.steps).toMatchObject({
    type: "integer",
    exclusiveMinimum: 0,
    default: 1000,
    unit: "steps",
    description: "Optimiser updates.",
  });
});

test("edit distance counts a swap as one, and far words are no suggestion", () => {
  expect(editDistance("kitten", "sitting")).toBe(3);
  expect(editDistance("stpes", "steps")).toBe(1);
  expect(editDistance("", "abc")).toBe(3);
  expect(nearest("mx", ["mix", "seed"])).toBe("mix");
  expect(nearest("generate", ["mix", "seed"])).toBeUndefined();
});

test("YAML of other kinds than JSON's are values like any, and numbers are shown as they are", async () => {
  const binary = await configFile("binary.yaml", "out: x\ntrain: !!binary aGVsbG8=\n");
  expect(await problemsOf([], [binary])).toMatch(/train: must be an object\n {4}got {3}"aGVsbG8="/);
  const infinite = await configFile("infinite.yaml", "out: x\ntrain: {steps: .inf}\n");
  expect(await problemsOf([], [infinite])).toContain("got   Infinity");
});
