import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import { BenchError } from "../errors.js";

/** A peer that could not answer. */
export class PeerError extends BenchError {
  constructor(peer: string, message: string) {
    super("BENCH_PEER_FAILED", `${peer}: ${message}`);
  }
}

const running = new Set<ChildProcessWithoutNullStreams>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

const canPause = process.platform !== "win32";

/**
 * A program that answers one JSON line for each line it is sent. Between requests it is stopped, so that the threads of a
 * waiting peer, which may spin, take no time from whoever is measured.
 */
export class LinePeer implements Disposable {
  readonly name: string;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #interface: Interface;
  readonly #lines: AsyncIterator<string>;
  #errors = "";

  constructor(name: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.name = name;
    this.#child = spawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...env },
      // A group of its own: Ctrl-C is for us, who then end the peers in order.
      detached: canPause,
    });
    running.add(this.#child);
    this.#child.on("exit", () => running.delete(this.#child));
    this.#child.on("error", (error) => {
      this.#errors += error.message;
    });
    this.#child.stdin.on("error", () => {
      // The request that follows finds no answer and reports the peer's last words.
    });
    this.#child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#errors = (this.#errors + text).slice(-2000);
    });
    this.#interface = createInterface({ input: this.#child.stdout });
    this.#lines = this.#interface[Symbol.asyncIterator]();
  }

  /** The next line that the peer writes by itself: its greeting. @throws PeerError also where it is no JSON */
  async greeting<T>(): Promise<T> {
    return await this.#answer<T>();
  }

  /** @throws PeerError when the peer ends, or answers `{"error": …}` */
  async request<T extends object>(line: string): Promise<T> {
    if (canPause) this.#child.kill("SIGCONT");
    this.#child.stdin.write(`${line}\n`);
    const answer = await this.#answer<T & { error?: string }>();
    if (answer.error !== undefined) throw new PeerError(this.name, answer.error);
    return answer;
  }

  async #answer<T>(): Promise<T> {
    const { value, done } = await this.#lines.next();
    if (done) {
      const words = this.#errors.trim().split("\n").slice(-4).join("\n");
      throw new PeerError(this.name, `ended without an answer${words ? `: ${words}` : ""}`);
    }
    if (canPause) this.#child.kill("SIGSTOP");
    try {
      return JSON.parse(value) as T;
    } catch {
      throw new PeerError(
        this.name,
        `is not the program that was expected: it wrote ${JSON.stringify(value.slice(0, 80))}`,
      );
    }
  }

  /** Lets the program end by the end of its input. */
  [Symbol.dispose](): void {
    this.#interface.close();
    if (canPause) this.#child.kill("SIGCONT");
    this.#child.stdin.end();
    const impatient = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    impatient.unref();
    this.#child.once("exit", () => clearTimeout(impatient));
  }
}
