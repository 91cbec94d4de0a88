import { spawn } from "node:child_process";
import { createWriteStream, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";

/** Prints one line for a phase of set-up: while it runs on a terminal, with its seconds; elsewhere at its start and end. */
export class PhaseLine {
  #name;
  #started = Date.now();
  #timed;
  #timer;

  /** @param {string} name @param {string} [doing] what takes long, shown while it runs */
  constructor(name, doing) {
    this.#name = name.padEnd(13);
    this.#timed = doing !== undefined;
    if (!this.#timed) return;
    if (process.stdout.isTTY) {
      const draw = () => process.stdout.write(`\r\u001b[K  ${this.#name}${doing} … ${this.#seconds()}`);
      draw();
      this.#timer = setInterval(draw, 1000);
    } else {
      console.log(`  ${this.#name}${doing} …`);
    }
  }

  #seconds() {
    return `${((Date.now() - this.#started) / 1000).toFixed(1)} s`;
  }

  /** @param {string} mark @param {string} text */
  #end(mark, text) {
    clearInterval(this.#timer);
    if (process.stdout.isTTY) process.stdout.write("\r\u001b[K");
    console.log(`${mark} ${this.#name}${text}`);
  }

  /** @param {string} result */
  done(result) {
    this.#end("✓", this.#timed ? `${result} (${this.#seconds()})` : result);
  }

  failed() {
    this.#end("✗", `failed after ${this.#seconds()}`);
  }
}

/**
 * Runs a program with its output in a file. Resolves with the output; rejects with the error that `failure` makes.
 * @param {{ file: string, args: string[], cwd: string, env: NodeJS.ProcessEnv, log: string, failure: (output: string, log: string) => Error }} options
 *   `failure` makes the error from the output
 * @returns {Promise<string>}
 */
export function runLogged({ file, args, cwd, env, log, failure }) {
  mkdirSync(dirname(log), { recursive: true });
  const sink = createWriteStream(log);
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    sink.on("error", (error) => {
      child.kill();
      reject(error);
    });
    child.stdout.pipe(sink, { end: false });
    child.stderr.pipe(sink, { end: false });
    child.on("error", (error) => reject(failure(error.message, log)));
    child.on("close", (code) => {
      if (sink.errored) return;
      sink.end(() => {
        const output = readFileSync(log, "utf8");
        if (code === 0) resolve(output);
        else reject(failure(output, log));
      });
    });
  });
}

/**
 * Runs a program on the user's terminal. A Ctrl-C goes to the program, which ends as it sees fit.
 * @param {string} file @param {string[]} args @param {{ cwd: string, env: NodeJS.ProcessEnv }} options
 * @returns {Promise<number>} its exit status
 */
export function runInteractive(file, args, options) {
  return new Promise((resolve, reject) => {
    const leaveToChild = () => {};
    process.on("SIGINT", leaveToChild);
    const child = spawn(file, args, { ...options, stdio: "inherit" });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      process.off("SIGINT", leaveToChild);
      resolve(code ?? (signal === "SIGINT" ? 130 : 1));
    });
  });
}
