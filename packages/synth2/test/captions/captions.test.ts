import { appendFile, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  type CaptionFilter,
  type CaptionSource,
  CommandSource,
  captionsOf,
  classedCaptions,
  classPrompt,
  compareCaptions,
  LanguageModel,
  ModelSource,
  readCaptions,
  writeCaptions,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { stopAtCheckpoint, world } from "../pipeline/small.js";
import { trainSmallLanguage } from "../vlm/small.js";

const classes = ["red circle", "blue star", "green square"];
const filter: CaptionFilter = { minWords: 2, maxWords: 12, grammar: "world", duplicates: false };

/** Answers every request with what `answer` says. */
const scripted = (answer: (name: string, index: number) => string, batch = 4): CaptionSource => ({
  batch,
  name: "scripted",
  write: async (requests) =>
    requests.map((request) => ({ text: answer(request.class, request.index), finished: true })),
  [Symbol.asyncDispose]: async () => undefined,
});

describe("writing captions", () => {
  it("says what is damaged, and lets one process at a time write", async () => {
    const output = join(await temporaryFolder(), "captions");
    const source = scripted((name, i) => `a ${name} ${["above", "below"][i % 2]} a white ring number ${i}`);
    const options = { source, classes, output, filter: { ...filter, grammar: "none" as const }, seed: 1, attempts: 50 };
    const write = (count: number) => writeCaptions({ ...options, count });
    const both = await Promise.allSettled([write(8), write(8)]);
    const refused = both.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
    expect(refused).toEqual([expect.objectContaining({ code: "RUN_DIRECTORY_LOCKED" })]);
    await writeFile(join(output, "captions.jsonl"), "{");
    await expect(write(12)).rejects.toMatchObject({ code: "SYNTH_DATA", message: expect.stringContaining("damaged") });
    await rm(join(output, "captions.jsonl"));
    await expect(write(12)).rejects.toMatchObject({ code: "SYNTH_DATA", message: expect.stringContaining("damaged") });
    await writeFile(join(output, "state.json"), "{");
    await expect(write(12)).rejects.toMatchObject({
      code: "SYNTH_DATA",
      message: expect.stringContaining("state.json"),
    });
  });

  it("draws classes alike, and rejects what is short, long, ungrammatical or twice", async () => {
    const output = join(await temporaryFolder(), "captions");
    const answers = ["circle", `a ${"very ".repeat(20)}red circle`, "seven dogs bark", "a red circle", "A red circle."];
    const source = scripted((name, i) => answers[i] ?? `a ${name} ${["above", "below", "under"][i % 3]} a white ring`);
    const { captions, rejected } = await writeCaptions({
      ...{ source, classes, count: 4, output, filter, seed: 1, attempts: 50 },
    });
    expect(captions).toHaveLength(4);
    expect(rejected).toMatchObject({ short: 1, long: 1, ungrammatical: 1, unfinished: 0 });
    expect(rejected.duplicate).toBeGreaterThanOrEqual(1);
    expect((await readCaptions(output)).map(({ caption }) => caption)).toEqual(captions);
    const poor = writeCaptions({
      ...{ source: scripted(() => "a red circle"), classes, count: 3, filter, seed: 1, attempts: 5 },
      output: `${output}-poor`,
    });
    await expect(poor).rejects.toThrow(/only 1 of 3 captions passed among 16 .*duplicate.*loosen the filter/);
    const endless: CaptionSource = {
      ...source,
      write: async (requests) => requests.map(() => ({ text: "a red circle", finished: false })),
    };
    const never = writeCaptions({
      ...{ source: endless, classes, count: 3, filter, seed: 1, attempts: 5 },
      output: `${output}-never`,
    });
    await expect(never).rejects.toThrow(/only 0 of 3 .*unfinished.*more tokens/);
  });

  it("killed and called again ends with the same file", async () => {
    const folder = await temporaryFolder();
    const source = scripted((name, i) => `a ${name} ${i % 2 ? "above" : "below"} a ${i % 5 ? "white" : "cyan"} ring`);
    const write = (name: string, count: number, more: object = {}) =>
      writeCaptions({ source, classes, count, output: join(folder, name), filter, seed: 3, attempts: 50, ...more });
    await write("whole", 10);
    const stopping = new AbortController();
    let rounds = 0;
    const stopped: CaptionSource = {
      ...source,
      write: (requests, seed) => {
        if (++rounds === 2) stopping.abort();
        return source.write(requests, seed);
      },
    };
    expect(await write("parts", 10, { source: stopped, signal: stopping.signal })).toMatchObject({ completed: false });
    // What a kill between writing lines and writing the state leaves.
    await appendFile(join(folder, "parts/captions.jsonl"), '{"id":"99","cap');
    expect((await write("parts", 10)).completed).toBe(true);
    const text = (name: string) => readFile(join(folder, name, "captions.jsonl"), "utf8");
    expect(await text("parts")).toBe(await text("whole"));
    await expect(write("parts", 12, { seed: 4 })).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
    await expect(readCaptions(folder)).rejects.toMatchObject({ code: "SYNTH_DATA" });
  });

  it("asks a program, and says what is wrong with its answers", async () => {
    const folder = await temporaryFolder();
    const script = join(folder, "write.mjs");
    await writeFile(
      script,
      `import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  console.log(JSON.stringify({ caption: "a " + request.class + " number " + request.index }));
}`,
    );
    const source = (command: string, timeoutSeconds = 20) => new CommandSource({ command, batch: 2, timeoutSeconds });
    const ask = (command: string, timeoutSeconds?: number) =>
      source(command, timeoutSeconds).write(
        [
          { class: "red circle", index: 0 },
          { class: "blue star", index: 1 },
        ],
        7,
      );
    const written = await ask(`${JSON.stringify(process.execPath)} ${JSON.stringify(script)}`);
    expect(written.map(({ text }) => text)).toEqual(["a red circle number 0", "a blue star number 1"]);
    const refused = async (command: string, why: RegExp, seconds?: number) => {
      const failing = ask(command, seconds);
      await expect(failing).rejects.toMatchObject({ code: "SYNTH_CAPTIONER" });
      await expect(failing).rejects.toThrow(why);
    };
    await refused("exit 3", /ended with code 3/);
    await refused("echo hello", /not JSON: hello/);
    await refused(`echo '{"text":"x"}'`, /without a "caption"/);
    await refused(`echo '{"caption":"x"}'`, /1 lines for 2 requests/);
    await refused("sleep 30", /did not answer within 0.3 s/, 0.3);
  });
});

describe("the built-in language model", () => {
  it("learns captions, writes some of a class, and resumed ends with the same weights", async () => {
    const folder = await temporaryFolder();
    const at = (name: string) => join(folder, name);
    const classed = await classedCaptions(world);
    expect(classed.every(({ classes: names }) => names.length > 0)).toBe(true);
    const plain = {
      length: 1,
      size: 1,
      get: async () => ({ id: "", image: new Uint8Array(3), captions: ["Red circle!"] }),
    };
    expect(await classedCaptions(plain)).toEqual([{ caption: "Red circle!", classes: ["red circle"] }]);
    const whole = await trainSmallLanguage(at("whole"), 100);
    using stop = stopAtCheckpoint(at("parts-run"));
    expect(await trainSmallLanguage(at("parts"), 100, { signal: stop.signal })).toEqual({
      completed: false,
    });
    const captions = (await classedCaptions(world)).map((each) => ({ ...each, classes: [] }));
    await expect(trainSmallLanguage(at("parts"), 100, { captions, resume: true })).rejects.toMatchObject({
      code: "TREFOIL_RESUME",
    });
    expect((await trainSmallLanguage(at("parts"), 100, { resume: true })).hash).toBe(whole.hash);
    using language = await LanguageModel.open(at("whole"));
    expect(language.hash).toBe(whole.hash);
    const options = { batch: 8, maxTokens: 24, temperature: 0.8, topK: 0, topP: 0.95 };
    await using source = new ModelSource(language, classes, options);
    const write = (output: string) =>
      writeCaptions({
        ...{ source, classes, count: 12, output: at(output), seed: 1, attempts: 100 },
        filter: { minWords: 1, maxWords: 30, grammar: "none", duplicates: false },
      });
    const first = await write("first");
    expect((await write("again")).captions).toEqual(first.captions);
    const report = compareCaptions(first.captions, await captionsOf(world), { clusters: 5 });
    expect(report.written).toMatchObject({ captions: 12, duplicates: 0 });
    expect(classPrompt("red circle")).toBe("red circle:");
    expect(() => new ModelSource(language, classes, { ...options, maxTokens: 60 })).toThrow(/has 40: lower maxTokens/);
  }, 60_000);
});
