import { DeviceProgram, defaultDevice, type RunOutput, Storage } from "../device/index.js";
import { allocateHost } from "../tensor/dtype.js";
import { InvalidUseError, TrefoilError } from "../tensor/errors.js";
import { Parameter, Tensor } from "../tensor/tensor.js";
import { copiesAreFresh, refreshCopies } from "./copied-weights.js";
import { argumentInput, parameterBuffer } from "./evaluate.js";
import { lower, type WeightSource } from "./lower.js";
import { type ProgramBuilder, printInstruction, printProgram } from "./program.js";
import { currentTrace, Trace } from "./trace.js";
import { mapTree, signatureOf } from "./tree.js";

/** Outputs up to this many bytes come back with the run; larger ones stay on the device. */
const hostOutputBytes = 64 * 1024;

/** From so many programs of one function on, something that is compiled for seems to change at every call. */
const manyPrograms = 64;
/** Programs of one function that are kept, those used last. */
const maxPrograms = 256;

/** A kernel result that is NaN or infinite, found by `diagnose`. */
export class NonFiniteError extends TrefoilError {
  /** The op, and its line in the printed program. */
  readonly op: string;
  readonly line: string;

  constructor(op: string, line: string, cause: unknown) {
    super("TREFOIL_NON_FINITE", `${op} gave a value that is not finite: ${line}`, { cause });
    this.op = op;
    this.line = line;
  }
}

interface Compiled<R> extends Disposable {
  program: DeviceProgram;
  builder: ProgramBuilder;
  outputs: readonly Tensor[];
  result: R;
  /** Keeps the state buffers alive as long as the program; where one is disposed the program is. */
  parameters: readonly Parameter[];
  /** Parameters that a run replaces. */
  assigned: readonly Parameter[];
}

export interface CompiledFunction<A extends readonly unknown[], R> {
  /** Enqueues a run and resolves with its outputs. Calls run in order; the next may start before this one is awaited. */
  (...args: A): Promise<R>;
  /** The program for arguments like these, as text. */
  inspect(...args: A): string;
  /** Runs with every kernel's result checked. @throws NonFiniteError naming the first op that gave NaN or infinity */
  diagnose(...args: A): Promise<R>;
  /** Runs once with the clock on: the program's instructions and the nanoseconds each has taken so far. */
  profile(...args: A): Promise<{ op: string; nanoseconds: number }[]>;
  /**
   * Bytes of the program for arguments like these: `arenaBytes` is what a run takes for its temporaries, in memory that the programs of a
   * device share; `workspaceBytes` is what kernels take beside them; `temporaryBytes` is what temporaries would take if none took
   * another's place.
   */
  memory(...args: A): { arenaBytes: number; workspaceBytes: number; temporaryBytes: number };
}

export interface CompileOptions {
  /** Matrix products read these copies of their right operands instead of f32 parameters. */
  weights?: WeightSource | undefined;
}

const isTensor = (value: unknown): value is Tensor => value instanceof Tensor;

/**
 * Compiles a function of tensors: it is called once per signature (structure of its arguments, shapes and dtypes of their tensors,
 * values of everything else) to record a graph, which is lowered to one native program. Parameters are read and assigned in place;
 * anything else that it reads from outside is fixed in the program. A number that changes from call to call is passed as a tensor, or
 * every value of it gets a program; the last 256 are kept.
 *
 * @example
 * const step = compile((tokens: Tensor, targets: Tensor) => {
 *   const { value, grads } = valueAndGrad(() => model.loss(tokens, targets), parameters);
 *   optimizer.apply(grads);
 *   return value;
 * });
 * const loss = await step(tokens, targets);
 */
export function compile<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  options: CompileOptions = {},
): CompiledFunction<A, R> {
  const programs = new Map<string, Compiled<R>>();

  const build = (key: string, args: A): Compiled<R> => {
    const trace = new Trace();
    const outputs: Tensor[] = [];
    const result = trace.run(() => {
      const placeholders = mapTree(args, (leaf) => (isTensor(leaf) ? trace.placeholder(leaf) : leaf), "arguments");
      const value = fn(...placeholders);
      if (value instanceof Promise) {
        // This error is the one to report: nobody awaits the other.
        value.catch(() => undefined);
        throw new InvalidUseError("compile needs a plain function, not an async one");
      }
      return mapTree(
        value,
        (leaf) => {
          if (!isTensor(leaf)) return leaf;
          outputs.push(trace.valueOf(leaf));
          return leaf;
        },
        "the result of a compiled function",
      );
    });
    const target = defaultDevice();
    const builder = lower(outputs, trace.assignments, trace.placeholders, {
      copies: options.weights,
      activations: target.activations,
    });
    const program = new DeviceProgram(target, builder.spec(parameterBuffer));
    const parameters = builder.values.flatMap(({ origin }) => (origin.kind === "state" ? [origin.parameter] : []));
    const assigned = [...trace.assignments.keys()];
    const dispose = () => {
      program.dispose();
      if (programs.get(key) === compiled) programs.delete(key);
    };
    const compiled: Compiled<R> = {
      program,
      builder,
      outputs,
      result,
      parameters,
      assigned,
      [Symbol.dispose]: dispose,
    };
    for (const parameter of parameters) parameter.programs.add(compiled);
    return compiled;
  };

  const refuseInsideTrace = (): void => {
    if (!currentTrace()) return;
    throw new InvalidUseError("a compiled function cannot be called inside another; call the plain function there");
  };

  const prepare = (args: A): { compiled: Compiled<R>; tensors: Tensor[] } => {
    const tensors: Tensor[] = [];
    const key = signatureOf(args, tensors, "arguments of a compiled function");
    let compiled = programs.get(key);
    if (!compiled) {
      compiled = build(key, args);
      programs.set(key, compiled);
      if (programs.size === manyPrograms) warnOfPrograms(fn.name);
      if (programs.size > maxPrograms) programs.values().next().value?.[Symbol.dispose]();
    } else if (programs.size >= manyPrograms) {
      // The least recently used comes first.
      programs.delete(key);
      programs.set(key, compiled);
    }
    return { compiled, tensors };
  };

  const run = async (args: A, how: { checkFinite?: boolean; profile?: boolean } = {}): Promise<R> => {
    const { compiled, tensors } = prepare(args);
    const { program, outputs, builder, assigned } = compiled;
    // In-place updates would change what the program still reads as its argument.
    if (tensors.some((tensor) => tensor instanceof Parameter && assigned.includes(tensor))) {
      throw new InvalidUseError(
        "an argument is a parameter that this compiled function assigns; read it inside instead",
      );
    }
    const results = outputs.map((output) => {
      if (output.bytes <= hostOutputBytes) {
        const data = allocateHost(output.dtype, output.size);
        return { target: data as RunOutput, tensor: new Tensor(output.shape, output.dtype, { kind: "host", data }) };
      }
      const storage = new Storage(program.device, output.bytes);
      return {
        target: storage.handle as RunOutput,
        tensor: new Tensor(output.shape, output.dtype, { kind: "storage", storage }),
      };
    });
    const targets = results.map(({ target }) => target);
    const inputs = tensors.map((tensor) => argumentInput(tensor, program.device));
    refreshCopies(builder.copiedWeights);
    const done = program.run(inputs, targets, how);
    for (const parameter of assigned) parameter.version++;
    copiesAreFresh(builder.copiedWeights);
    try {
      await done;
    } catch (error) {
      throw how.checkFinite ? nonFinite(error, builder) : error;
    }
    let at = 0;
    return mapTree(compiled.result, (leaf) => (isTensor(leaf) ? results[at++]!.tensor : leaf), "result");
  };

  const call = (...args: A): Promise<R> => {
    refuseInsideTrace();
    return run(args);
  };
  return Object.assign(call, {
    inspect: (...args: A) => printProgram(prepare(args).compiled.builder),
    diagnose: (...args: A) => run(args, { checkFinite: true }),
    profile: async (...args: A) => {
      await run(args, { profile: true });
      const { program, builder } = prepare(args).compiled;
      const nanoseconds = program.profile();
      return builder.instructions.map(({ op }, i) => ({ op, nanoseconds: nanoseconds[i]! }));
    },
    memory: (...args: A) => prepare(args).compiled.program.info(),
  });
}

let warned = false;

function warnOfPrograms(name: string): void {
  if (warned) return;
  warned = true;
  const which = name ? `"${name}"` : "a compiled function";
  const message =
    `${which} has been compiled ${manyPrograms} times, once for each set of shapes and of values that are no tensors. Pass a number that ` +
    `changes from call to call as a tensor, tensor(rate), and pad lengths to a few; the last ${maxPrograms} programs are kept.`;
  process.emitWarning(message, { type: "TrefoilWarning", code: "TREFOIL_MANY_PROGRAMS" });
}

function nonFinite(error: unknown, builder: ProgramBuilder): unknown {
  const { code, op, instruction } = error as { code?: string; op?: string; instruction?: number };
  if (code !== "TREFOIL_NON_FINITE" || op === undefined || instruction === undefined) return error;
  return new NonFiniteError(op, printInstruction(builder.instructions[instruction]!), error);
}
