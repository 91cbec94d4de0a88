import { accessSync, constants } from "node:fs";
import { addon, TrefoilError } from "@trefoil/native";

/** A file mapped into memory, read-only: a window costs a copy of its bytes, and the system keeps what is hot. */
export class MappedFile implements Disposable {
  /** Size of the file. */
  readonly bytes: number;
  #mapping: number | undefined;

  constructor(readonly path: string) {
    // A missing or unreadable file is Node's own error, with its code.
    accessSync(path, constants.R_OK);
    const { mapping, bytes } = addon().mapFile(path);
    this.#mapping = mapping;
    this.bytes = bytes;
    net.register(this, mapping, this);
  }

  /** Fills `target` from byte `offset`; a range outside of the file throws. */
  readRange(offset: number, target: Uint8Array): void {
    if (this.#mapping === undefined) throw new TrefoilError("TREFOIL_INVALID_USE", `${this.path} was closed`);
    addon().readMapping(this.#mapping, offset, target);
  }

  close(): void {
    if (this.#mapping === undefined) return;
    net.unregister(this);
    addon().unmapFile(this.#mapping);
    this.#mapping = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const net = new FinalizationRegistry<number>((mapping) => addon().unmapFile(mapping));
