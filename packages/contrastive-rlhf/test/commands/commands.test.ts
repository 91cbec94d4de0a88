import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readMetricsFile } from "@trefoil/core";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../stages/small.js";

const cli = join(import.meta.dirname, "../../dist/cli.js");

async function run(
  folder: string,
  args: readonly string[],
  input = "",
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [cli, ...args], { cwd: folder, stdio: "pipe" });
  const result = { code: null as number | null, stdout: "", stderr: "" };
  child.stdout.on("data", (text) => (result.stdout += text));
  child.stderr.on("data", (text) => (result.stderr += text));
  child.stdin.end(input);
  result.code = await new Promise((resolve) => child.on("close", resolve));
  return result;
}

/** What a report of PPO shows at least. */
const charts = [
  "Reward",
  "KL to the SFT policy",
  "Entropy",
  "Length of responses",
  "Share of clipped ratios",
  "Explained variance of the critic",
  "Share of rollouts above their own baseline",
];

const jsonl = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

describe("the command line", () => {
  test("from JSONL to a comparison", async () => {
    await using temporary = await temporaryFolder();
    const folder = temporary.path;
    const words = ["red", "green", "blue", "cyan"];
    const write = (name: string, rows: readonly object[]) => writeFile(join(folder, name), jsonl(rows));
    await write(
      "demonstrations.jsonl",
      words.map((word) => ({ prompt: `say ${word}: `, completion: word })),
    );
    await write(
      "preferences.jsonl",
      words.map((word) => ({ prompt: `say ${word}: `, chosen: word, rejected: "no" })),
    );
    await write(
      "prompts.jsonl",
      words.map((word) => ({ prompt: `say ${word}: ` })),
    );
    let told = "";
    const step = async (args: string) => {
      const result = await run(folder, args.split(" "));
      expect(result.stderr).not.toMatch(/error/);
      expect(result.code).toBe(0);
      told = result.stderr;
      return result.stdout;
    };
    const small =
      "--new.hidden-size 16 --new.intermediate-size 32 --new.layers 1 --new.heads 2 --new.key-value-heads 2 --new.max-positions 32";
    await step(
      `sft --data demonstrations.jsonl --output sft ${small} --train.steps 20 --train.batch 4 --train.learning-rate 0.01`,
    );
    expect(
      await step(
        "reward --model sft --data preferences.jsonl --output reward --train.steps 20 --train.batch 2 --held-out 0.5",
      ),
    ).toMatch(/accuracy \d\.\d+.* on 2 held-out pairs/);
    // A tenth of four pairs is none.
    const few = "reward --model sft --data preferences.jsonl --output few --train.steps 2 --train.batch 2";
    expect(await step(few)).toMatch(/on 4 training pairs/);
    const models = "--policy sft --reward reward --prompts prompts.jsonl";
    expect(await step(`baselines ${models} --store baselines --samples 3 --sampler.max-new-tokens 6`)).toMatch(
      /4 prompts, 3 samples each \(12 drawn .*ρ = /,
    );
    const ppo = `ppo ${models} --iterations 2 --prompts-per-iteration 4 --minibatch 2 --max-new-tokens 6 --no-alarms.enabled`;
    await step(`${ppo} --output plain`);
    await step(`${ppo} --output other/contrast`);
    await step(
      `${ppo} --output contrast --beside plain --beside ./other/contrast/ --baseline.kind offline --baseline.store baselines --baseline.samples 3 --baseline.aggregation median`,
    );
    expect(told).toMatch(/✓ ppo +reward \S+ +KL \S+ +above \S+ +length \S+ +entropy \S+ +clipped \S+ +explained \S+/);
    await step("dpo --policy sft --data preferences.jsonl --output dpo --train.steps 4 --train.batch 2");
    const compared = await step(
      "evaluate --policy contrast --against sft --reward 0.5*reward --prompts prompts.jsonl --sampler.max-new-tokens 6 --frontier contrast-run --report report.html",
    );
    expect(compared).toMatch(/all pairs +win \d+, tie \d+, lose \d+/);
    expect(compared).toMatch(/iteration 0: KL 0.000 nats/);
    // Each policy reads messages by its own template.
    for (const [name, sign] of [
      ["ours", "A"],
      ["theirs", "B"],
    ] as const) {
      await cp(join(folder, "sft"), join(folder, name), { recursive: true });
      const template = `{% for m in messages %}${sign}:{{ m.content }}{% endfor %}`;
      await writeFile(join(folder, name, "chat_template.jinja"), template);
    }
    await write("chat.jsonl", [{ prompt: [{ role: "user", content: "hi" }] }]);
    // So do those that are shown beside the trained one; what cannot read the prompts is found before the run.
    const talk = "ppo --policy ours --reward reward --prompts chat.jsonl --iterations 1 --prompts-per-iteration 4";
    const briefly = `${talk} --minibatch 4 --max-new-tokens 6 --no-alarms.enabled`;
    await step(`${briefly} --output talking --beside theirs`);
    await writeFile(
      join(folder, "theirs/chat_template.jinja"),
      `{% for m in messages %}${"long".repeat(9)}{% endfor %}`,
    );
    for (const [other, problem] of [
      ["sft", /--beside sft cannot answer the prompts: chat.jsonl:1: chat messages need a chat template/],
      [
        "theirs",
        /--beside theirs cannot answer the prompts: row 1: the prompt has 3\d tokens; with 6 for the response/,
      ],
    ] as const) {
      const refused = await run(folder, [...briefly.split(" "), "--output", "mute", "--beside", other]);
      expect(refused.stderr).toMatch(problem);
      expect([refused.code, existsSync(join(folder, "mute-run"))]).toEqual([1, false]);
    }
    await writeFile(join(folder, "theirs/chat_template.jinja"), `{% for m in messages %}B:{{ m.content }}{% endfor %}`);
    const long = await run(folder, [...ppo.split(" "), "--max-new-tokens", "32", "--output", "mute"]);
    expect(long.stderr).toMatch(/maxNewTokens is 32, which leaves no room for a prompt in the model's context of 32/);
    const letters = "samples.map(({ promptText }) => promptText.charCodeAt(0))";
    await writeFile(join(folder, "letter.mjs"), `export default (samples) => ${letters};\n`);
    const apart = "evaluate --policy ours --against theirs --reward letter.mjs --prompts chat.jsonl";
    expect(await step(`${apart} --sampler.max-new-tokens 6`)).toMatch(/reward +65.0000 against 66.0000/);
    for (const report of ["report.html", "contrast-run/report.html", "dpo-run/report.html"]) {
      expect(await readFile(join(folder, report), "utf8")).toContain("<!doctype html>");
    }
    const own = await readFile(join(folder, "contrast-run/report.html"), "utf8");
    for (const part of [...charts, "What contrast can remove", "Responses"]) expect(own, part).toContain(part);
    // Responses of all policies; folders of one name by their paths.
    expect(own).toMatch(
      /<th[^>]*>prompt<\/th>\s*<th[^>]*>SFT<\/th>\s*<th[^>]*>plain<\/th>\s*<th[^>]*>.\/other\/contrast\/<\/th>\s*<th[^>]*>contrast<\/th>/,
    );
    const nowhere = await run(folder, [...ppo.split(" "), "--output", "late", "--beside", "nowhere"]);
    expect([nowhere.code, nowhere.stderr]).toEqual([
      1,
      expect.stringContaining("--beside nowhere is no folder of a policy"),
    ]);
    expect(existsSync(join(folder, "late-run"))).toBe(false);
    const chat = await run(
      folder,
      ["chat", "--policy", "dpo", "--max-new-tokens", "6", "--seed", "1"],
      "say red: \nsay blue: \n",
    );
    expect(chat.code).toBe(0);
    expect(chat.stdout.split("\n").length).toBeGreaterThanOrEqual(3);

    // A prompt that does not fit ends it, though standard input stays open.
    const stuck = spawn(process.execPath, [cli, "chat", "--policy", "dpo"], { cwd: folder });
    stuck.stdin.write("say red: \n");
    expect((await once(stuck, "exit", { signal: AbortSignal.timeout(20_000) }))[0]).toBe(1);

    const broken = await run(folder, [
      ...ppo.replace("--no-alarms.enabled", "--alarms.grace 0 --learning-rate 5").split(" "),
      ...["--output", "broken"],
    ]);
    expect([broken.code, broken.stderr]).toEqual([
      1,
      expect.stringMatching(/The batch is in broken-run\/alarm-\d\.json/),
    ]);
    expect(await readFile(join(folder, "broken-run/report.html"), "utf8")).toContain("<!doctype html>");
    await writeFile(
      join(folder, "typed.ts"),
      "export default (samples: { responseText: string }[]) => samples.map(() => 1);\n",
    );
    const typed = await run(folder, [
      ...ppo.replace("--reward reward", "--reward typed.ts").split(" "),
      "--output",
      "typed",
    ]);
    // Since Node 22.18 types are taken off.
    if ((process.features as { typescript?: unknown }).typescript) expect(typed.code).toBe(0);
    else expect([typed.code, typed.stderr]).toEqual([1, expect.stringContaining("this one needs it compiled")]);

    for (const [sizes, problem] of [
      ["--new.hidden-size 18 --new.heads 2", "new.hiddenSize 18 is not an even multiple of new.heads 2"],
      ["--new.heads 2 --new.key-value-heads 4", "new.heads 2 is not a multiple of new.keyValueHeads 4"],
    ] as const) {
      const odd = await run(folder, `sft --data demonstrations.jsonl --output odd ${sizes}`.split(" "));
      expect([odd.code, odd.stderr]).toEqual([1, expect.stringContaining(problem)]);
    }
    const wrong = await run(folder, ["evaluate", "--policy", "sft", "--against", "dpo", "--prompts", "prompts.jsonl"]);
    expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("--reward or --judge")]);
    await write("bad.jsonl", [{ prompt: "x" }, { prompt: "" }]);
    const bad = await run(folder, [
      "ppo",
      "--policy",
      "sft",
      "--reward",
      "reward",
      "--prompts",
      "bad.jsonl",
      "--output",
      "bad",
    ]);
    expect([bad.code, bad.stderr]).toEqual([1, expect.stringContaining('bad.jsonl:2: "prompt" is empty')]);
    const swapped = await run(folder, [
      "ppo",
      ...models.replace("--reward reward", "--reward sft").split(" "),
      "--output",
      "bad",
    ]);
    expect(swapped.stderr).toMatch(/sft is no reward model/);
    const scorer = await run(folder, ["chat", "--policy", "reward"]);
    expect(scorer.stderr).toMatch(/reward: config.json says LlamaForSequenceClassification, and a language model/);
    expect(existsSync(join(folder, "bad"))).toBe(false);
  }, 120_000);

  test("a small quickstart, and its result again after a stop", async () => {
    await using temporary = await temporaryFolder();
    const tiny =
      "--prompts 64 --held-out-prompts 16 --sft-steps 10 --compared-responses 2 --reward-steps 10 --samples 2 --iterations 7".split(
        " ",
      );
    const first = await run(temporary.path, ["quickstart", "--run", "q", ...tiny]);
    expect(first.code).toBe(0);
    expect(first.stdout).toMatch(/PPO \+ contrast, k = 2 +true quality/);
    const again = await run(temporary.path, ["quickstart", "--run", "q", "--resume", ...tiny]);
    expect(again.code).toBe(0);
    // What is complete would be kept, and reported as if it had other settings.
    const other = await run(temporary.path, ["quickstart", "--run", "q", "--resume", ...tiny, "--flips", "0.3"]);
    expect([other.code, other.stderr]).toEqual([
      1,
      expect.stringMatching(/started with flips .* resume with the same/),
    ]);
    // Only the time and the number of samples drawn differ.
    const table = (text: string) => text.split("\n").filter((line) => !line.includes("drawn in"));
    expect(table(again.stdout)).toEqual(table(first.stdout));
    const report = await readFile(join(temporary.path, "q/report.html"), "utf8");
    for (const part of [
      ...charts,
      "What contrast can remove",
      "Responses",
      "PPO + contrast, k = 2",
      "Policies on held-out prompts",
    ])
      expect(report, part).toContain(part);

    // Looking baselines up costs next to nothing. The median: any iteration can be held up by the rest of the machine.
    const metrics = await readMetricsFile(join(temporary.path, "q/ppo-contrast-run/metrics.jsonl"));
    const shares = metrics.map(({ values }) => values["time/baseline_share"]!).sort((a, b) => a - b);
    expect(shares).toHaveLength(7);
    expect(shares[3]).toBeGreaterThan(0);
    expect(shares[3]).toBeLessThan(0.01);
    expect(first.stdout).toMatch(/baselines took [\d.]+ ms of an iteration of \d+ ms: [\d.]+ %/);
  }, 120_000);
});
