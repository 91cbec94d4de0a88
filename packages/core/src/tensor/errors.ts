import { TrefoilError } from "@trefoil/native";

export { TrefoilError };

const formatShape = (shape: readonly number[]) => `[${shape.join(", ")}]`;
const among = (what: string, values: readonly string[]) => (values.length > 0 ? ` (${what} ${values.join(", ")})` : "");

/** Shapes that an op does not accept. Raised while tracing, at the line that built the op. */
export class ShapeError extends TrefoilError {
  readonly op: string;
  readonly shapes: readonly (readonly number[])[];

  constructor(op: string, reason: string, shapes: readonly (readonly number[])[]) {
    super("TREFOIL_SHAPE", `${op}: ${reason}${among("shapes", shapes.map(formatShape))}`);
    this.op = op;
    this.shapes = shapes;
  }
}

/** Dtypes that an op does not accept. */
export class DtypeError extends TrefoilError {
  readonly op: string;
  readonly dtypes: readonly string[];

  constructor(op: string, reason: string, dtypes: readonly string[]) {
    super("TREFOIL_DTYPE", `${op}: ${reason}${among("dtypes", dtypes)}`);
    this.op = op;
    this.dtypes = dtypes;
  }
}

/** An op on the path from the loss to a parameter that has no gradient. */
export class GradientError extends TrefoilError {
  constructor(op: string, reason: string) {
    super("TREFOIL_NO_GRADIENT", `${op}: ${reason}`);
  }
}

/** A value used in a way that its life does not allow: outside its trace, after dispose, … */
export class InvalidUseError extends TrefoilError {
  constructor(message: string) {
    super("TREFOIL_INVALID_USE", message);
  }
}

/** Whether a user can mend it: raised on purpose, or by the operating system. Anything else is a bug. */
export function isExpected(error: Error): boolean {
  return error instanceof TrefoilError || isEngineError(error) || isSystemError(error);
}

/** Of the native code, where it says what a user can mend: a setting, an index out of range, memory. */
function isEngineError(error: Error): boolean {
  return "code" in error && /^TREFOIL_(?!INTERNAL$)/.test(String(error.code));
}

function isSystemError(error: Error): boolean {
  return "syscall" in error && "errno" in error;
}
