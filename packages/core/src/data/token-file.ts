import { MappedFile } from "../device/index.js";
import { DataError } from "./errors.js";
import {
  bytesPerToken,
  documentsOffset,
  fileBytes,
  headerSchema,
  magic,
  maxHeaderBytes,
  type TokenFileHeader,
  tokensOffset,
} from "./token-file-format.js";

/** Random access to the bytes of a file. Synchronous, because a window is a few kilobytes that are mostly in the page cache. */
export interface RangeReader {
  /** Size of the file. */
  readonly bytes: number;
  /** Fills `target` from `offset`; a range outside of the file throws. */
  readRange(offset: number, target: Uint8Array): void;
  close(): void;
}

export interface TokenFileOptions {
  /** The tokenizer that the model uses: one with another hash is refused. */
  tokenizer?: { readonly hash: string };
  /** How the file is read. Default: mapped into memory. Closed with the token file. */
  reader?: RangeReader;
}

/** A text that was tokenized once, read by windows. Holds the header and, once segments are asked for, the document ends. */
export class TokenFile {
  /** Tokens in all, ends of text included. */
  readonly tokens: number;
  readonly documents: number;
  readonly #reader: RangeReader;
  #scratch = new Uint16Array(0);
  #documentEnds: Float64Array | undefined;

  private constructor(
    readonly path: string,
    readonly header: TokenFileHeader,
    reader: RangeReader,
  ) {
    this.tokens = header.tokens;
    this.documents = header.documents;
    this.#reader = reader;
  }

  /**
   * @throws DataError `DATA_DAMAGED_TOKEN_FILE` when the file is not whole, `DATA_WRONG_TOKENIZER` when its tokens were made by
   *   another tokenizer than `options.tokenizer`
   */
  static open(path: string, options: TokenFileOptions = {}): TokenFile {
    const reader = options.reader ?? new MappedFile(path);
    try {
      const header = readHeader(path, reader);
      if (options.tokenizer && options.tokenizer.hash !== header.tokenizerHash) {
        throw new DataError(
          "DATA_WRONG_TOKENIZER",
          `${path} was made with another tokenizer (hash ${header.tokenizerHash.slice(0, 12)}…, the model's is ${options.tokenizer.hash.slice(0, 12)}…): tokenize the text again`,
        );
      }
      return new TokenFile(path, header, reader);
    } catch (error) {
      reader.close();
      throw error;
    }
  }

  /** Windows of `sequence` tokens, each token predicted from those before it in its window; the rest is left out. */
  windows(sequence: number): number {
    return Math.max(0, Math.floor((this.tokens - 1) / sequence));
  }

  /** Fills `target` with the tokens from `start`. */
  read(start: number, target: Int32Array): void {
    if (start < 0 || start + target.length > this.tokens) {
      throw new RangeError(
        `tokens [${start}, ${start + target.length}) are outside of ${this.path}, which has ${this.tokens}`,
      );
    }
    if (this.header.dtype === "u32") {
      this.#reader.readRange(
        tokensOffset + 4 * start,
        new Uint8Array(target.buffer, target.byteOffset, target.byteLength),
      );
    } else {
      if (this.#scratch.length < target.length) this.#scratch = new Uint16Array(target.length);
      const narrow = this.#scratch.subarray(0, target.length);
      this.#reader.readRange(tokensOffset + 2 * start, new Uint8Array(narrow.buffer, 0, narrow.byteLength));
      target.set(narrow);
    }
    // An id beyond the vocabulary would be looked up outside of the embedding.
    for (let i = 0; i < target.length; i++) {
      const id = target[i] as number;
      if (id < 0 || id >= this.header.vocabSize) {
        throw new DataError(
          "DATA_DAMAGED_TOKEN_FILE",
          `${this.path} holds the token ${id}, but ids are 0 to ${this.header.vocabSize - 1}: tokenize the text again`,
        );
      }
    }
  }

  /** Fills `target` with the number of each token's document from `start`, counted from the first token's. */
  readSegments(start: number, target: Int32Array): void {
    const ends = this.documentEnds();
    let document = firstAbove(ends, start);
    const first = document;
    for (let i = 0; i < target.length; i++) {
      while (start + i >= (ends[document] ?? Infinity)) document++;
      target[i] = document - first;
    }
  }

  /** Where each document ends, counted in tokens from the beginning of the file; kept once read. */
  documentEnds(): Float64Array {
    if (this.#documentEnds) return this.#documentEnds;
    const stored = new BigUint64Array(this.documents);
    this.#reader.readRange(documentsOffset(this.header), new Uint8Array(stored.buffer));
    const ends = Float64Array.from(stored, Number);
    for (let i = 0; i < ends.length; i++) {
      if ((ends[i] as number) <= (ends[i - 1] ?? 0))
        throw new DataError("DATA_DAMAGED_TOKEN_FILE", `${this.path}: the ends of documents are out of order`);
    }
    this.#documentEnds = ends;
    return ends;
  }

  close(): void {
    this.#reader.close();
  }
}

/** Index of the first value above `bound` in an ascending list. */
function firstAbove(values: Float64Array, bound: number): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((values[middle] as number) > bound) high = middle;
    else low = middle + 1;
  }
  return low;
}

function readHeader(path: string, reader: RangeReader): TokenFileHeader {
  const damaged = (reason: string, cause?: unknown) =>
    new DataError("DATA_DAMAGED_TOKEN_FILE", `${path}: ${reason}: tokenize the text again`, { cause });
  if (reader.bytes < tokensOffset) throw damaged(`the file has only ${reader.bytes} bytes`);
  const start = new Uint8Array(tokensOffset);
  reader.readRange(0, start);
  if (Buffer.compare(start.subarray(0, 8), magic) !== 0) throw damaged("not a token file");
  const length = new DataView(start.buffer).getUint32(8, true);
  if (length > maxHeaderBytes) throw damaged("the header is too long");
  let header: TokenFileHeader;
  try {
    header = headerSchema.parse(JSON.parse(Buffer.from(start.buffer, 12, length).toString("utf8")));
  } catch (cause) {
    throw damaged("the header is malformed", cause);
  }
  const expected = fileBytes(header);
  if (expected !== reader.bytes) throw damaged(`the file has ${reader.bytes} bytes instead of ${expected}`);
  if (header.vocabSize > 65536 && bytesPerToken(header.dtype) === 2)
    throw damaged("the vocabulary does not fit 16 bits");
  return header;
}
