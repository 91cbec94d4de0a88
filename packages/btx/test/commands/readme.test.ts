import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { runCli } from "@trefoil/core";
import { expect, it } from "vitest";
import { commands } from "../../src/commands/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "g"))].map(([, body]) => body!);

/** Sizes for a test, for what each command takes. */
const model =
  "--model.hidden-size 16 --model.intermediate-size 24 --model.layers 2 --model.heads 2 --model.key-value-heads 2 --model.max-positions 64";
const train = "--train.batch 4 --train.sequence 32";
const data = "--data.max-bytes 60000";
const small: Record<string, string> = {
  quickstart: `${model} ${train} ${data} --seed.steps 2 --branch.steps 2 --finetune.steps 2 --router.tokens 512 --windows 4 --problems 4`,
  seed: `${model} ${train} ${data} --train.steps 2`,
  branch: `${train} ${data} --train.steps 2`,
  status: "",
  mix: data,
  upcycle: "",
  average: "",
  reproduce: `${model} --workers 1 --seeds 1 --steps 4 --seed-steps 2 --batch 4 --sequence 32 --windows 4 --problems 0 --max-bytes 60000`,
  ensemble: `${data} --windows 4 --sequence 32 --batch 4 --max-new-tokens 4`,
  ridge: `${data} --router.tokens 512 --router.sequence 32`,
  finetune: `${train} ${data} --train.steps 2`,
  evaluate: `${data} --windows 4 --sequence 32 --batch 4 --problems 4`,
  routing: `${data} --windows 4 --sequence 32 --batch 4 --tokens 16`,
  generate: "--max-new-tokens 4",
};

/** The words of a shell line without expansions. */
const wordsOf = (line: string) => [...line.matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word);

async function btx(argv: readonly string[]): Promise<{ code: number; output: string; errors: string }> {
  const text = { output: "", errors: "" };
  const into = (key: keyof typeof text) =>
    new Writable({
      write(chunk, _, done) {
        text[key] += String(chunk);
        done();
      },
    });
  const code = await runCli({
    name: "btx",
    version: "0.0.0",
    commands,
    argv,
    stdout: into("output"),
    stderr: into("errors"),
    env: {},
  });
  return { code, ...text };
}

it("runs every command of the README, in its order, and the library example", async () => {
  const folder = temporaryFolder();
  const before = process.cwd();
  process.chdir(folder);
  try {
    mkdirSync("notes");
    // No two alike: training leaves out what held-out text says too.
    const numbers = (i: number) => Array.from({ length: 80 }, (_, word) => (i * 7919 + word * word * 31) % 9973);
    for (let i = 0; i < 60; i++) writeFileSync(join("notes", `${i}.txt`), `Note ${i}: ${numbers(i).join(" ")}\n`);
    const lines = blocks("sh").flatMap((body) =>
      body
        .trim()
        .split("\n")
        .filter((line) => line.startsWith("btx ")),
    );
    expect(lines.length).toBeGreaterThanOrEqual(10);
    const named = new Set(lines.map((line) => wordsOf(line)[1]));
    expect([...named].sort()).toEqual(commands.map(({ name }) => name).sort());
    for (const line of lines) {
      const [, command, ...rest] = wordsOf(line);
      const kind = line.includes("ridge") ? "ridge" : command!;
      const { code, output, errors } = await btx([command!, ...rest, ...wordsOf(small[kind]!)]);
      expect(code, `${line}\n${errors}`).toBe(0);
      if (line.includes("--json")) expect(JSON.parse(output).scores[0].exactMatch).toHaveProperty("facts");
      else if (command === "evaluate" || command === "quickstart")
        expect(output).toMatch(/bits per byte, held out +code +prose +arithmetic/);
      if (line.includes("--dry-run")) expect(output).toContain("4 experts, 2 per token");
      if (command === "routing") {
        expect(output).toMatch(/^load +code +prose +arithmetic +seed +evenness/);
        const { domains, summary } = JSON.parse(readFileSync("runs/routing/routing.json", "utf8"));
        expect([domains.length, summary.length]).toEqual([3, 2]);
        expect(readFileSync("runs/routing/report.html", "utf8")).toContain("Domains and experts");
      }
      if (command === "status") expect(output.match(/ done /g)).toHaveLength(3);
      if (command === "generate") expect(output.startsWith("34+52=")).toBe(true);
    }
    const [exporting] = blocks("sh").flatMap((body) =>
      body.split("\n").filter((line) => line.startsWith("npx trefoil ")),
    );
    const trefoil = fileURLToPath(new URL("../bin/trefoil.js", import.meta.resolve("@trefoil/core")));
    execFileSync(process.execPath, [trefoil, ...wordsOf(exporting!).slice(2)]);
    expect(readFileSync("finetuned.gguf").toString("latin1", 0, 4)).toBe("GGUF");
    // The configuration file, on files such as it names.
    for (const path of ["src", "lib"]) mkdirSync(path);
    const jsonl = (lineOf: (i: number) => object) =>
      Array.from({ length: 60 }, (_, i) => `${JSON.stringify(lineOf(i))}\n`).join("");
    for (let i = 0; i < 60; i++)
      writeFileSync(join(i % 2 ? "src" : "lib", `${i}.ts`), `// ${i}\n${numbers(i).join(";\n")}\n`);
    writeFileSync(
      "papers.jsonl",
      jsonl((i) => ({ abstract: `Paper ${i}: ${numbers(i + 60).join(" ")}` })),
    );
    writeFileSync(
      "chat.jsonl",
      jsonl((i) => ({ prompt: `Which, ${i}? `, completion: numbers(i + 120).join(" ") })),
    );
    writeFileSync("data.yaml", blocks("yaml")[0]!);
    const yaml =
      "branch --config data.yaml --seed models/seed --output experts-of-file --only chat --train.accumulate 2";
    const packed = "--train.documents packed --train.recompute --train.steps 3";
    const told = await btx([...wordsOf(yaml), ...wordsOf(train), ...wordsOf(packed)]);
    expect(told.code, told.errors).toBe(0);
    const usage = JSON.parse(readFileSync("experts-of-file-run/chat/domains.json", "utf8")) as { name: string }[];
    expect(usage.map(({ name }) => name)).toEqual(["code", "papers", "chat"]);

    const [example] = blocks("ts");
    const library = pathToFileURL(fileURLToPath(new URL("../../dist/index.js", import.meta.url))).href;
    const core = import.meta.resolve("@trefoil/core");
    // `using` is TypeScript's; Node 20 runs it as const.
    const script = example!
      .replace('"@trefoil/btx"', JSON.stringify(library))
      .replace('"@trefoil/core"', JSON.stringify(core))
      .replace(/^using /gm, "const ");
    writeFileSync("example.mjs", script);
    const printed: unknown[] = [];
    const log = console.log;
    console.log = (...values: unknown[]) => printed.push(values.join(" "));
    try {
      await import(pathToFileURL(join(folder, "example.mjs")).href);
    } finally {
      console.log = log;
    }
    expect(printed[0]).toMatch(/^\d+ parameters, \d+ per token, \d+ bytes$/);
    expect(printed).toHaveLength(3);
  } finally {
    process.chdir(before);
  }
}, 300_000);

it("shows every field of every command in its help", async () => {
  for (const { name } of commands) {
    const { code, output } = await btx([name, "--help"]);
    expect(code).toBe(0);
    await expect(output).toMatchFileSnapshot(`help/${name}.txt`);
  }
  const { output } = await btx(["--help"]);
  await expect(output).toMatchFileSnapshot("help/btx.txt");
});

it("says what is wrong with a flag, and how it is spelled", async () => {
  const { code, errors } = await btx(["mix", "--experts", "a,b", "--output", "c", "--expert-per-token", "2"]);
  expect(code).toBe(2);
  expect(errors).toContain("did you mean --experts-per-token?");
});

it("says in one paragraph why models cannot be used", async () => {
  const { code, errors } = await btx(["mix", "--experts", "/nowhere/a,/nowhere/b", "--output", "c"]);
  expect(code).toBe(1);
  expect(errors).toContain("/nowhere/a: there is no such folder");
  expect(errors).not.toContain("    at ");
});

it("says that a model's context is shorter than the rows asked for, before it reads text", async () => {
  const model = await writeCheckpoint(join(temporaryFolder(), "model"));
  for (const [command, flag] of [
    [`evaluate --models ${model}`, "--sequence"],
    [`ensemble --models ${model},${model} --rule uniform`, "--sequence"],
    [`branch --seed ${model} --output experts`, "--train.sequence"],
  ] as const) {
    const { code, errors } = await btx([...wordsOf(command), flag, "128"]);
    expect(code).toBe(1);
    expect(errors).toContain(`${flag} is 128, but ${model} has 64 positions: give ${flag} 64 or less`);
  }
});

it("goes on with a quickstart only with the settings that it has", async () => {
  const run = temporaryFolder();
  writeFileSync(join(run, "config.yaml"), "problems: 3\n");
  const { code, errors } = await btx(["quickstart", "--run", run, "--resume"]);
  expect([code, errors]).toEqual([1, expect.stringMatching(/was started with \S+ \S+, not \S+: resume with the same/)]);
});
