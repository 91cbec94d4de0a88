import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory, temporarySibling, writeFully } from "../io/atomic-file.js";
import {
  bytesPerToken,
  documentsOffset,
  magic,
  maxHeaderBytes,
  type TokenFileHeader,
  tokensOffset,
} from "./token-file-format.js";

/** Tokens gathered before a write. */
const bufferTokens = 1 << 18;

/** Writes a token file as the tokens come. It appears under its name when `finish` is done. */
export class TokenFileWriter {
  readonly #path: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  readonly #header: TokenFileHeader;
  readonly #buffer: Uint16Array | Uint32Array;
  readonly #documentEnds: number[] = [];
  #buffered = 0;
  #flushed = 0;
  #open = true;

  private constructor(path: string, temporary: string, handle: FileHandle, header: TokenFileHeader) {
    this.#path = path;
    this.#temporary = temporary;
    this.#handle = handle;
    this.#header = header;
    this.#buffer = header.dtype === "u16" ? new Uint16Array(bufferTokens) : new Uint32Array(bufferTokens);
  }

  /** @param fingerprint of what the tokens are made from; stored in the header */
  static async create(
    path: string,
    tokenizer: { readonly hash: string; readonly vocabSize: number },
    fingerprint = "",
  ): Promise<TokenFileWriter> {
    const temporary = temporarySibling(path);
    return new TokenFileWriter(path, temporary, await open(temporary, "wx"), {
      version: 1,
      dtype: tokenizer.vocabSize <= 65536 ? "u16" : "u32",
      vocabSize: tokenizer.vocabSize,
      tokens: 0,
      documents: 0,
      textBytes: 0,
      tokenizerHash: tokenizer.hash,
      fingerprint,
    });
  }

  get tokens(): number {
    return this.#header.tokens;
  }

  /** Appends tokens that stand for `textBytes` bytes of text. */
  async append(ids: ArrayLike<number>, textBytes: number): Promise<void> {
    for (let i = 0; i < ids.length; i++) {
      this.#buffer[this.#buffered++] = ids[i] as number;
      if (this.#buffered === bufferTokens) await this.#flush();
    }
    this.#header.textBytes += textBytes;
    this.#header.tokens += ids.length;
  }

  /** Ends a document; one without tokens leaves no trace. */
  endDocument(): void {
    if (this.#header.tokens > (this.#documentEnds.at(-1) ?? 0)) this.#documentEnds.push(this.#header.tokens);
  }

  /** Completes the file and gives it its name. */
  async finish(): Promise<TokenFileHeader> {
    try {
      this.endDocument();
      await this.#flush();
      this.#header.documents = this.#documentEnds.length;
      const ends = BigUint64Array.from(this.#documentEnds, BigInt);
      const start = new Uint8Array(tokensOffset);
      const json = Buffer.from(JSON.stringify(this.#header));
      if (json.byteLength > maxHeaderBytes)
        throw new RangeError(`the header of ${this.#path} has ${json.byteLength} bytes; choose a shorter fingerprint`);
      start.set(magic);
      new DataView(start.buffer).setUint32(8, json.byteLength, true);
      start.set(json, 12);
      await writeFully(this.#handle, start, 0);
      await this.#handle.truncate(documentsOffset(this.#header)); // pads to 8 bytes with zeros
      await writeFully(this.#handle, new Uint8Array(ends.buffer), documentsOffset(this.#header));
      await this.#handle.sync();
      this.#open = false;
      await this.#handle.close();
      await rename(this.#temporary, this.#path);
    } catch (error) {
      await this.abort();
      throw error;
    }
    await syncDirectory(dirname(this.#path));
    return { ...this.#header };
  }

  /** Gives up: removes what was written. */
  async abort(): Promise<void> {
    if (this.#open) await this.#handle.close();
    this.#open = false;
    await rm(this.#temporary, { force: true });
  }

  async #flush(): Promise<void> {
    const width = bytesPerToken(this.#header.dtype);
    const bytes = new Uint8Array(this.#buffer.buffer, 0, this.#buffered * width);
    await writeFully(this.#handle, bytes, tokensOffset + this.#flushed * width);
    this.#flushed += this.#buffered;
    this.#buffered = 0;
  }
}
