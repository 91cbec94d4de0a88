import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ByteTokenizer } from "@trefoil/core";
import { describe, expect, test } from "vitest";
import { EpisodeEncoder, readDemonstrations, readPreferences, readPrompts } from "../../src/index.js";
import { temporaryFolder } from "../stages/small.js";

const plain = new ByteTokenizer();
const template =
  "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token if m.role == 'assistant' else '' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
const chat = new ByteTokenizer(template);

async function withRows<T>(rows: readonly (object | string)[], read: (path: string) => Promise<T>): Promise<T> {
  await using folder = await temporaryFolder();
  const path = join(folder.path, "rows.jsonl");
  await writeFile(path, rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`).join(""));
  return await read(path);
}

describe("rows", () => {
  test("texts", async () => {
    const prompts = await withRows([{ prompt: "a", extra: 1 }, "", { prompt: "b" }], (path) =>
      readPrompts(path, plain),
    );
    expect(prompts.map(({ line, prompt, row }) => [line, prompt, row.extra])).toEqual([
      [1, "a", 1],
      [3, "b", undefined],
    ]);
    const [pair] = await withRows([{ prompt: "q", chosen: "x", rejected: "y", margin: 0.5 }], (path) =>
      readPreferences(path, plain),
    );
    expect(pair).toMatchObject({ prompt: "q", chosen: "x", rejected: "y", margin: 0.5 });
    expect(pair!.ended).toEqual({ chosen: true, rejected: true });
    const demonstrations = await withRows(
      [
        { prompt: "q", completion: "x" },
        { prompt: "p", chosen: "y", rejected: "z" },
      ],
      (path) => readDemonstrations(path, plain),
    );
    expect(demonstrations.map(({ completion }) => completion)).toEqual(["x", "y"]);
  });

  test("an implicit prompt is what both responses begin with", async () => {
    const hh = "\n\nHuman: Hi\n\nAssistant:";
    const rows = [
      { chosen: `${hh} Hello there`, rejected: `${hh} Hello you` },
      { chosen: "write a cat", rejected: "write a car" },
    ];
    const pairs = await withRows(rows, (path) => readPreferences(path, plain));
    expect(pairs.map(({ prompt, chosen, rejected }) => [prompt, chosen, rejected])).toEqual([
      [hh, " Hello there", " Hello you"],
      ["write a ", "cat", "car"],
    ]);
  });

  test("chat messages go through the template, with an explicit and an implicit prompt", async () => {
    const user = { role: "user", content: "hi" };
    const answer = (content: string) => [{ role: "assistant", content }];
    const explicit = { prompt: [user], chosen: answer("yes"), rejected: answer("no") };
    const implicit = { chosen: [user, ...answer("yes")], rejected: [user, ...answer("no")] };
    for (const pair of await withRows([explicit, implicit], (path) => readPreferences(path, chat))) {
      expect(pair).toMatchObject({
        prompt: "<user>hi<assistant>",
        chosen: "yes</s>",
        rejected: "no</s>",
        templated: true,
      });
    }
    const [row] = await withRows([explicit], (path) => readPreferences(path, chat));
    const { chosen } = new EpisodeEncoder(chat, [257], 64).preference(row!);
    // The template has written the end: there is one, as a token.
    expect([...chosen.response]).toEqual([...Buffer.from("yes"), 257]);
    expect(chosen.prompt[0]).toBe(256);
    // A template may end turns otherwise than texts end, by any of the ids that end a response; one of none of them gets the first.
    const response = (ends: readonly number[]) => [
      ...new EpisodeEncoder(chat, ends, 64).preference(row!).chosen.response,
    ];
    expect(response([5, 257])).toEqual([...Buffer.from("yes"), 257]);
    expect(response([5])).toEqual([...Buffer.from("yes"), 257, 5]);
  });

  test("every malformed row is named with its line and fault", async () => {
    const rows = [
      { prompt: "fine" },
      "{",
      "[1]",
      { prompt: "  " },
      { text: "x" },
      { prompt: 3 },
      { prompt: [{ role: "user" }] },
      { prompt: [{ role: "user", content: "x" }] },
    ];
    const error: Error = await withRows(rows, (path) => readPrompts(path, plain)).then(
      () => expect.fail("accepted"),
      (thrown: Error) => thrown,
    );
    expect(error).toMatchObject({ code: "RLHF_DATA" });
    const faults = [
      /:2: not JSON/,
      /:3: not a JSON object/,
      /:4: "prompt" is empty/,
      /:5: there is no "prompt"/,
      /:6: "prompt" must be/,
      /:7: "prompt"\[0\] needs a role and a content/,
      /:8: chat messages need a chat template/,
    ];
    for (const fault of faults) expect(error.message).toMatch(fault);
    expect(error.message).not.toMatch(/:1:/);
  });

  test("preferences that prefer nothing, and files without rows", async () => {
    const read = (path: string) => readPreferences(path, plain);
    await expect(withRows([{ prompt: "q", chosen: "x", rejected: "x" }], read)).rejects.toThrow(
      /:1: "chosen" and "rejected" are the same/,
    );
    await expect(withRows([{ prompt: "q", chosen: "x", rejected: "" }], read)).rejects.toThrow(/"rejected" is empty/);
    await expect(withRows([{ prompt: "q", chosen: "x", rejected: "y", margin: "big" }], read)).rejects.toThrow(
      /"margin" must be a number/,
    );
    await expect(
      withRows([{ prompt: "q", chosen: [{ role: "assistant", content: "x" }], rejected: "y" }], read),
    ).rejects.toThrow(/use messages for both/);
    await expect(withRows([{ prompt: "q", chosen: 3, rejected: "y" }], read)).rejects.toThrow(
      /"chosen" must be a string or a list of chat messages/,
    );
    await expect(withRows([""], read)).rejects.toThrow(/has no rows/);
    await expect(readPrompts("/nowhere/rows.jsonl", plain)).rejects.toThrow(/does not exist/);
  });

  test("only responses that ended have an end token", async () => {
    const cut = { prompt: "q", chosen: "x", rejected: "yz", rejected_ended: false };
    const encoder = new EpisodeEncoder(plain, [257], 16);
    const [row] = await withRows([cut], (path) => readPreferences(path, plain));
    const { chosen, rejected } = encoder.preference(row!);
    expect([...chosen.response]).toEqual([120, 257]);
    expect([...rejected.response]).toEqual([121, 122]);
    const swapped = { ...cut, chosen: "yz", rejected: "x", chosen_ended: false, rejected_ended: true };
    const [demonstration] = await withRows([swapped], (path) => readDemonstrations(path, plain));
    expect([...encoder.demonstration(demonstration!).response]).toEqual([121, 122]);
    // The end that a chat template writes is not one of a response that was cut.
    const templated = { line: 1, prompt: "q", completion: "x</s>\n", templated: true, row: {} };
    expect([...encoder.demonstration({ ...templated, ended: false }).response]).toEqual([120]);
    await expect(withRows([{ ...cut, rejected_ended: "no" }], (path) => readPreferences(path, plain))).rejects.toThrow(
      /:1: "rejected_ended" must be true or false/,
    );
  });

  test("long responses are cut and counted; long prompts are refused; special tokens in texts are text", () => {
    const encoder = new EpisodeEncoder(plain, [257], 8);
    const text = { line: 4, prompt: "abc", templated: false, row: {} };
    expect(encoder.demonstration({ ...text, completion: "xyz" }).response).toEqual(Int32Array.of(120, 121, 122, 257));
    expect(encoder.truncated).toBe(0);
    expect(encoder.demonstration({ ...text, completion: "wxyz" }).response).toEqual(Int32Array.of(119, 120, 121, 122));
    expect(encoder.truncated).toBe(1);
    expect(() => encoder.prompt({ ...text, prompt: "abcdefgh" })).toThrow(/row 4: the prompt has 9 tokens/);
    expect(() => encoder.preference({ ...text, chosen: "wxyz1", rejected: "wxyz2", margin: undefined })).toThrow(
      /cut to 8 tokens, chosen and rejected are the same/,
    );
    expect(encoder.demonstration({ ...text, prompt: "a", completion: "</s>" }).response.length).toBe(5);
  });
});
