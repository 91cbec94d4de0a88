import { describe, expect, it } from "vitest";
import { ByteTokenizer, StreamDecoder, type Tokenizer, trainBpe } from "../../src/index.js";

function pieces(tokenizer: Pick<Tokenizer, "decode">, ids: Iterable<number>): string[] {
  const decoder = new StreamDecoder(tokenizer);
  return [...[...ids].map((id) => decoder.push(id)), decoder.end()];
}

describe("StreamDecoder", () => {
  const text = "Grüße, 世界! 🍀 f(x) = x²\n\n  indented";

  it("never ends a piece inside a character", () => {
    const tokenizer = new ByteTokenizer();
    const found = pieces(tokenizer, tokenizer.encode(text));
    expect(found.join("")).toBe(text);
    expect(found.filter((piece) => piece.includes("\uFFFD"))).toEqual([]);
    expect(found.filter((piece) => piece !== "")).toHaveLength([...text].length);
  });

  it("gives what decode gives, also for tokens that are no text, and at the end of a cut one", () => {
    const tokenizer = new ByteTokenizer();
    const ids = [...tokenizer.encode("a🍀"), 257, 0xff, ...tokenizer.encode("b"), 0xf0, 0x9f];
    expect(pieces(tokenizer, ids).join("")).toBe(tokenizer.decode(ids));
    expect(pieces(tokenizer, ids).at(-1)).not.toBe("");
    expect(pieces(tokenizer, [])).toEqual([""]);
  });

  it("works for tokens of several bytes", async () => {
    const tokenizer = await trainBpe([text.repeat(20)], { vocabSize: 300 });
    const ids = tokenizer.encode(text);
    expect(ids.length).toBeLessThan(new TextEncoder().encode(text).length);
    expect(pieces(tokenizer, ids).join("")).toBe(text);
  });

  it("keeps spaces where decode drops that of the first token, as SentencePiece does", () => {
    const words = [" one", " two", "s", "  ", " three"];
    const decode = (ids: Iterable<number>) =>
      [...ids]
        .map((id) => words[id])
        .join("")
        .replace(/^ /, "");
    expect(pieces({ decode }, [0, 1, 2, 3, 4])).toEqual(["one", " two", "s", "  ", " three", ""]);
  });
});
