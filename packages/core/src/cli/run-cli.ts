import type { Writable } from "node:stream";
import { setImmediate } from "node:timers/promises";
import { stringify } from "yaml";
import { Device, device, type Precision, precisions, setDefaultDevice } from "../device/index.js";
import { TrefoilError } from "../tensor/errors.js";
import { createProgress } from "../train/progress.js";
import { createStyle } from "../train/terminal-style.js";
import type { Command, CommandContext } from "./command.js";
import { UsageError } from "./errors.js";
import { commandHelp, type HelpOptions, programHelp } from "./help.js";
import { listenForInterruption } from "./interrupt.js";
import { jsonSchema } from "./json-schema.js";
import { nearest } from "./nearest.js";
import { formatError } from "./report-error.js";
import { resolveConfig } from "./resolve.js";

type TerminalStream = Writable & { readonly isTTY?: boolean; readonly columns?: number };

export interface CliOptions {
  /** Name of the program: "btx". */
  readonly name: string;
  readonly version: string;
  /** One line about the program. */
  readonly summary?: string;
  readonly commands: readonly Command[];
  /** Arguments without the runtime and script; the process's own by default. */
  readonly argv?: readonly string[];
  readonly stdout?: TerminalStream;
  readonly stderr?: TerminalStream;
  readonly env?: NodeJS.ProcessEnv;
}

interface Invocation {
  readonly files: string[];
  readonly flags: string[];
  readonly help: boolean;
  readonly printConfig: boolean;
  readonly printSchema: boolean;
  readonly quiet: boolean;
  readonly device: string | undefined;
  readonly precision: Precision | undefined;
}

/**
 * Runs a command line and returns the process's exit code: 0 done, 1 the command failed, 2 wrong usage, 130 interrupted
 * (143 by SIGTERM). Prints errors; throws nothing. Set `process.exitCode` to the result.
 */
export async function runCli(options: CliOptions): Promise<number> {
  const { env = process.env } = options;
  const stdout = options.stdout ?? (process.stdout as TerminalStream);
  const stderr = options.stderr ?? (process.stderr as TerminalStream);
  for (const stream of [stdout, stderr]) survive(stream);
  using output = watchOutput(stdout);
  const code = await runArguments(options, stdout, stderr);
  const failure = await output.written();
  if (failure === undefined) return code;
  const error = new TrefoilError("OUTPUT_WRITE", "cannot write to standard output", { cause: failure });
  stderr.write(formatError(error, createStyle(stderr, env), env));
  return code === 0 ? 1 : code;
}

async function runArguments(options: CliOptions, stdout: TerminalStream, stderr: TerminalStream): Promise<number> {
  const { name, version, commands, argv = process.argv.slice(2), env = process.env } = options;
  const helpFor = (stream: TerminalStream): HelpOptions => {
    const width = stream.isTTY === true ? (stream.columns ?? 80) : 100;
    return { width: Math.min(120, Math.max(60, width - 1)), style: createStyle(stream, env) };
  };

  const [first, ...rest] = argv[0] === "--" ? argv.slice(1) : argv;
  try {
    if (first === "--version" || first === "-v") {
      stdout.write(`${version}\n`);
      return 0;
    }
    const topic = first === "help" ? rest[0] : undefined;
    if (first === "--help" || first === "-h" || (first === "help" && topic === undefined)) {
      stdout.write(programHelp(options, commands, helpFor(stdout)));
      return 0;
    }
    if (first === undefined) {
      stderr.write(programHelp(options, commands, helpFor(stderr)));
      return 2;
    }
    const command = findCommand(name, commands, topic ?? first);
    const invocation = splitArguments(rest);
    if (topic !== undefined || invocation.help) {
      stdout.write(commandHelp(name, command, helpFor(stdout)));
      return 0;
    }
    if (invocation.printSchema) {
      stdout.write(`${JSON.stringify(jsonSchema(command), null, 2)}\n`);
      return 0;
    }
    const fullName = `${name} ${command.name}`;
    const config = await resolveConfig({ name: fullName, schema: command.schema }, invocation);
    if (invocation.printConfig) {
      stdout.write(stringify(config));
      return 0;
    }
    chooseDevice(invocation, env);
    return await runCommand(command, config, {
      command: fullName,
      version,
      stdout,
      stderr,
      env,
      quiet: invocation.quiet,
    });
  } catch (error) {
    stderr.write(formatError(error, createStyle(stderr, env), env));
    if (error instanceof UsageError && error.code !== "CONFIG_FILE") {
      const known = commands.some((command) => command.name === first);
      stderr.write(`\nRun ${name}${known ? ` ${first}` : ""} --help for ${known ? "every flag" : "the commands"}.\n`);
    }
    return error instanceof UsageError ? 2 : 1;
  }
}

/** Opens the device asked for now, so that a missing one is an error before any work; programs that a command starts use it too. */
function chooseDevice(wanted: Pick<Invocation, "device" | "precision">, env: NodeJS.ProcessEnv): void {
  const { device: name, precision } = wanted;
  if (name === undefined && precision === undefined) return;
  const key = name ?? (env.TREFOIL_DEVICE || "cpu");
  setDefaultDevice(precision === undefined ? device(key) : new Device(key, { precision }));
  if (name !== undefined) env.TREFOIL_DEVICE = name;
  if (precision !== undefined) env.TREFOIL_PRECISION = precision;
}

async function runCommand(
  command: Command,
  config: Record<string, unknown>,
  setting: Omit<CommandContext, "signal" | "progress"> & { stderr: TerminalStream; env: NodeJS.ProcessEnv },
): Promise<number> {
  const { stderr, env, ...context } = setting;
  const progress = createProgress({ stream: stderr, quiet: context.quiet, env });
  using interruption = listenForInterruption((signal) => {
    progress.warn(`${signal}: stopping after this step; once more to stop at once`);
  });
  try {
    await command.run(config, { ...context, signal: interruption.signal, progress });
  } catch (error) {
    // A wait that the abort cut short is the interruption itself, not a failure.
    if (!(interruption.signal.aborted && isAbortError(error))) throw error;
  } finally {
    progress.close();
  }
  return interruption.exitCode ?? 0;
}

function isAbortError(error: unknown): boolean {
  return error instanceof Error && (error.name === "AbortError" || ("code" in error && error.code === "ABORT_ERR"));
}

function findCommand(program: string, commands: readonly Command[], name: string): Command {
  const command = commands.find((candidate) => candidate.name === name);
  if (command !== undefined) return command;
  const names = commands.map((candidate) => candidate.name);
  const closest = nearest(name, names);
  const suggestion =
    closest === undefined ? `the commands are ${names.join(", ")}` : `did you mean ${program} ${closest}?`;
  throw new UsageError("COMMAND_UNKNOWN", `unknown command ${name}; ${suggestion}`);
}

/** Takes out the flags that every command has; the rest belongs to the command's schema. */
function splitArguments(argv: readonly string[]): Invocation {
  const files: string[] = [];
  const flags: string[] = [];
  const seen = new Set<string>();
  let [chosen, precision]: (string | undefined)[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i] as string;
    if (argument === "--config") {
      const file = argv[++i];
      if (file === undefined || file.startsWith("--")) {
        throw new UsageError("CONFIG_FLAG", "--config needs a file: --config settings.yaml");
      }
      files.push(file);
    } else if (argument.startsWith("--config=")) {
      files.push(argument.slice("--config=".length));
    } else if (argument === "--device") {
      chosen = argv[++i];
      if (chosen === undefined || chosen.startsWith("--")) {
        throw new UsageError("DEVICE_FLAG", "--device needs a name: --device cuda");
      }
    } else if (argument.startsWith("--device=")) {
      chosen = argument.slice("--device=".length);
    } else if (argument === "--precision") {
      precision = argv[++i] ?? "";
    } else if (argument.startsWith("--precision=")) {
      precision = argument.slice("--precision=".length);
    } else if (["--help", "-h", "--print-config", "--json-schema", "--quiet"].includes(argument)) {
      seen.add(argument);
    } else {
      flags.push(argument);
    }
  }
  return {
    files,
    flags,
    help: seen.has("--help") || seen.has("-h"),
    printConfig: seen.has("--print-config"),
    printSchema: seen.has("--json-schema"),
    quiet: seen.has("--quiet"),
    device: chosen,
    precision: precision === undefined ? undefined : precisionOf(precision),
  };
}

function precisionOf(name: string): Precision {
  const known = precisions.find((each) => each === name);
  if (known !== undefined) return known;
  throw new UsageError("PRECISION_FLAG", `--precision is one of ${precisions.join(", ")}, not "${name}"`);
}

const watched = new WeakSet<Writable>();

/** Whatever happens to a stream, also after the command, it does not end the process with a stack. */
function survive(stream: Writable): void {
  if (watched.has(stream)) return;
  watched.add(stream);
  stream.on("error", () => {});
}

interface Output extends Disposable {
  /** Resolves when all that was written is out, to the first error worth telling. */
  written(): Promise<Error | undefined>;
}

/** `btx … | head` closes the pipe early: that is no error. A full disk is. */
function watchOutput(stream: Writable): Output {
  let failure: Error | undefined;
  const keep = (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") failure ??= error;
  };
  stream.on("error", keep);
  return {
    async written() {
      // The event of a failure follows the callback of its write. A stream with nothing under way may be one that calls nobody back.
      if (stream.writableLength > 0) await new Promise<void>((resolve) => void stream.write("", () => resolve()));
      await setImmediate();
      return failure;
    },
    [Symbol.dispose]() {
      stream.off("error", keep);
    },
  };
}
