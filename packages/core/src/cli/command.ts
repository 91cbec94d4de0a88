import type { Writable } from "node:stream";
import type { z } from "zod";
import type { Progress } from "../train/progress.js";

/** A command's configuration: a strict zod object. Every field should have `.describe()`, numbers `.meta({ unit })`. */
export type ConfigSchema = z.ZodObject;

/** What a running command is given beside its configuration. */
export interface CommandContext {
  /** `btx mix`. */
  readonly command: string;
  readonly version: string;
  /** Aborted by the first Ctrl-C or SIGTERM: finish the step, save, return. */
  readonly signal: AbortSignal;
  /** Results go here; progress and notices go to `progress`, which writes to stderr. */
  readonly stdout: Writable;
  readonly progress: Progress;
  readonly quiet: boolean;
}

/** One command of a command line. */
export interface Command<Schema extends ConfigSchema = ConfigSchema> {
  readonly name: string;
  /** One line, shown in the list of commands. */
  readonly summary: string;
  /** Paragraphs shown by the command's own help. */
  readonly description?: string | undefined;
  /** Command lines shown by the command's own help. */
  readonly examples?: readonly string[] | undefined;
  readonly schema: Schema;
  // Method syntax: a list of commands with different schemas stays assignable to `Command[]`.
  run(config: z.output<Schema>, context: CommandContext): Promise<unknown>;
}

/** Declares a command; infers the type of `run`'s first argument from the schema. */
export function defineCommand<Schema extends ConfigSchema>(command: Command<Schema>): Command<Schema> {
  return command;
}
