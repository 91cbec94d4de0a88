import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { Generator } from "@trefoil/core";
import { SynthError } from "../errors.js";
import { classPrompt } from "./classes.js";
import type { LanguageModel } from "./language-model.js";

/** One caption that is asked for. */
export interface CaptionRequest {
  /** What the picture should show. */
  class: string;
  /** Number of the request in the run: with the seed it decides what is drawn. */
  index: number;
}

export interface WrittenCaption {
  text: string;
  /** False where it was cut off. */
  finished: boolean;
}

/** Something that writes captions of classes. */
export interface CaptionSource extends AsyncDisposable {
  /** Requests at a time. */
  readonly batch: number;
  /** Tells sources apart when a run is resumed. */
  readonly name: string;
  /** @returns one caption for each request, in order */
  write(requests: readonly CaptionRequest[], seed: number, signal?: AbortSignal): Promise<WrittenCaption[]>;
}

export interface ModelSourceOptions {
  batch: number;
  maxTokens: number;
  temperature: number;
  /** 0: all. */
  topK: number;
  topP: number;
  /** `{class}` stands for the class; default: what the built-in language model was trained on. */
  prompt?: string | undefined;
}

/** Captions from a language model: the built-in one, or any Hugging Face folder of the Llama family with a prompt. */
export class ModelSource implements CaptionSource {
  readonly batch: number;
  readonly name: string;
  readonly #generator: Generator;
  readonly #prompt: (name: string) => Int32Array;

  /** @throws SynthError `SYNTH_OPTIONS` for a prompt without a class, `SYNTH_CAPTIONER` when one is too long for the model */
  constructor(
    readonly language: LanguageModel,
    classes: readonly string[],
    readonly options: ModelSourceOptions,
  ) {
    const { batch, maxTokens, prompt } = options;
    const { start, tokenizer, model } = language;
    if (prompt !== undefined && !prompt.includes("{class}")) {
      throw new SynthError("SYNTH_OPTIONS", "the prompt has no {class}: captions would be of nothing that was drawn");
    }
    this.batch = batch;
    this.name = JSON.stringify({ language: language.hash, ...options });
    this.#prompt = (name) =>
      Int32Array.of(
        start,
        ...tokenizer.encode(prompt === undefined ? classPrompt(name) : prompt.replaceAll("{class}", () => name)),
      );
    const longest = Math.max(...classes.map((name) => this.#prompt(name).length)) + maxTokens;
    if (longest > model.config.maxPositions) {
      throw new SynthError(
        "SYNTH_CAPTIONER",
        `prompt and caption take ${longest} tokens, the language model has ${model.config.maxPositions}: lower maxTokens, ${maxTokens}`,
      );
    }
    this.#generator = new Generator(model, batch, longest);
  }

  async write(requests: readonly CaptionRequest[], seed: number, signal?: AbortSignal): Promise<WrittenCaption[]> {
    const { maxTokens, temperature, topK, topP } = this.options;
    const { ends, tokenizer } = this.language;
    const prompts = requests.map((request) => this.#prompt(request.class));
    const sampling = { temperature, topK, topP, seed: seed + requests[0]!.index };
    const options = { maxNewTokens: maxTokens, eosTokenIds: ends, ...sampling, ...(signal && { signal }) };
    const rows = await this.#generator.generate(prompts, options);
    return rows.map(({ tokens, finished }) => ({
      text: tokenizer.decode(finished ? tokens.subarray(0, -1) : tokens).trim(),
      finished,
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#generator.dispose();
  }
}

export interface CommandSourceOptions {
  /** Run by the shell. Gets a JSON line `{"class","index","seed"}` per request, answers each with a line `{"caption"}`, in order. */
  command: string;
  batch: number;
  timeoutSeconds: number;
}

/** Longest answer that is read, characters. */
const longestAnswer = 1 << 20;

/** Captions from a program: started once for a batch of requests, so that a stuck one can be told from a slow one. */
export class CommandSource implements CaptionSource {
  readonly batch: number;
  readonly name: string;

  constructor(readonly options: CommandSourceOptions) {
    this.batch = options.batch;
    this.name = JSON.stringify({ command: options.command, batch: options.batch });
  }

  async write(requests: readonly CaptionRequest[], seed: number, signal?: AbortSignal): Promise<WrittenCaption[]> {
    const { command, timeoutSeconds } = this.options;
    const failed = (why: string, cause?: unknown) =>
      new SynthError("SYNTH_CAPTIONER", `the caption command "${command}" ${why}`, { cause });
    // A group of its own: stopping it stops what the shell started.
    const child = spawn(command, { shell: true, detached: true, stdio: ["pipe", "pipe", "inherit"] });
    const stop = () => {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        child.kill("SIGKILL");
      }
    };
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      stop();
    }, timeoutSeconds * 1000);
    signal?.addEventListener("abort", stop, { once: true });
    const closed = once(child, "close") as Promise<[number | null]>;
    // It may answer all and end without reading to the end: no failure of its own.
    child.stdin.on("error", () => undefined);
    child.stdin.end(requests.map((request) => `${JSON.stringify({ ...request, seed })}\n`).join(""));
    try {
      const captions: WrittenCaption[] = [];
      let characters = 0;
      child.stdout.on("data", (chunk: Buffer) => {
        characters += chunk.length;
        if (characters > longestAnswer * requests.length) stop();
      });
      for await (const line of createInterface({ input: child.stdout })) {
        if (line.trim() === "") continue;
        captions.push({ text: readCaption(line, failed), finished: true });
      }
      const [code] = await closed;
      signal?.throwIfAborted();
      if (timedOut) throw failed(`did not answer within ${timeoutSeconds} s: raise the time limit or lower the batch`);
      if (code !== 0) throw failed(`ended with ${code === null ? "a signal" : `code ${code}`}`);
      if (captions.length !== requests.length) {
        throw failed(`wrote ${captions.length} lines for ${requests.length} requests: it must answer each with one`);
      }
      return captions;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      stop();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Every batch ends its own process.
  }
}

function readCaption(line: string, failed: (why: string, cause?: unknown) => SynthError): string {
  let answer: unknown;
  try {
    answer = JSON.parse(line);
  } catch (cause) {
    throw failed(`wrote a line that is not JSON: ${line.slice(0, 100)}`, cause);
  }
  const caption = (answer as { caption?: unknown } | null)?.caption;
  if (typeof caption !== "string") throw failed(`wrote a line without a "caption": ${line.slice(0, 100)}`);
  return caption;
}
