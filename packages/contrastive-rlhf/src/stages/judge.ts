import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { RlhfError } from "../errors.js";

/** Says which of two responses is better. */
export type Verdict = "A" | "B" | "tie";
export type Judge = (question: { prompt: string; a: string; b: string }) => Promise<Verdict>;

/**
 * A program as judge, run by the shell once per question: `{"prompt", "a", "b"}` on standard input, `A`, `B` or `tie` as the last word on
 * standard output.
 * @param signal aborted: the program is stopped, with all that it started
 */
export function commandJudge(command: string, signal?: AbortSignal): Judge {
  return async (question) => {
    const output = await runCommand(command, `${JSON.stringify(question)}\n`, signal);
    const word = output.trim().split(/\s+/).at(-1)?.replace(/[[\]]/g, "");
    if (word === "A" || word === "B" || word === "tie") return word;
    throw new RlhfError(
      "RLHF_JUDGE",
      `the judge answered ${JSON.stringify(output.slice(-200))}; its last word must be A, B or tie`,
    );
  };
}

async function runCommand(command: string, input: string, signal: AbortSignal | undefined): Promise<string> {
  // A group of its own: Ctrl-C reaches this process alone, and stopping the shell stops what it started.
  const child = spawn(command, { shell: true, detached: true, stdio: ["pipe", "pipe", "inherit"] });
  const stop = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has ended just now.
    }
  };
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await answerOf(child, command, input);
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

function answerOf(
  child: ChildProcessByStdio<Writable, Readable, null>,
  command: string,
  input: string,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    // A judge that does not read its input closes the pipe; its verdict counts all the same.
    child.stdin.on("error", () => undefined);
    child.on("error", (cause) =>
      reject(new RlhfError("RLHF_JUDGE", `the judge ${command} cannot be started`, { cause })),
    );
    child.on("close", (code) => {
      if (code === 0) resolve(output);
      else reject(new RlhfError("RLHF_JUDGE", `the judge ${command} ended with status ${code}`));
    });
    child.stdin.end(input);
  });
}

/** Asks in both orders: whoever wins both has won, disagreement is a tie. +1 for `first`, -1 for `second`. */
export async function judgeBothOrders(
  judge: Judge,
  prompt: string,
  first: string,
  second: string,
): Promise<-1 | 0 | 1> {
  const straight = await judge({ prompt, a: first, b: second });
  const swapped = await judge({ prompt, a: second, b: first });
  if (straight === "A" && swapped === "B") return 1;
  if (straight === "B" && swapped === "A") return -1;
  return 0;
}
