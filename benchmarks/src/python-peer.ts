import { type ChildProcess, spawn } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";

/** A Python script under `peers/` that answers one JSON line per request, so that its work can alternate with ours. */
export class PythonPeer implements Disposable {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #interface: Interface;

  /** @param python interpreter that has the peer's packages */
  constructor(python: string, script: string) {
    const path = fileURLToPath(new URL(`../peers/${script}`, import.meta.url));
    this.#process = spawn(python, [path], { stdio: ["pipe", "pipe", "inherit"] });
    this.#process.on("error", () => {
      // Reported by the request that then finds no answer.
    });
    this.#interface = createInterface({ input: this.#process.stdout! });
    this.#lines = this.#interface[Symbol.asyncIterator]();
  }

  async request<T>(message: object): Promise<T> {
    this.#process.stdin!.write(`${JSON.stringify(message)}\n`);
    const { value, done } = await this.#lines.next();
    if (done)
      throw new Error(
        `the peer ended without an answer; does this Python have torch and transformers? (${this.#process.spawnfile})`,
      );
    return JSON.parse(value) as T;
  }

  [Symbol.dispose](): void {
    this.#process.stdin?.end();
    this.#interface.close();
    this.#process.kill();
  }
}
