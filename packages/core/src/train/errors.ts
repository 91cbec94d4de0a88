import { TrefoilError } from "../tensor/errors.js";

/** A watched scalar (the loss, by default) became NaN or infinite. Nothing was saved after the step before. */
export class NonFiniteLossError extends TrefoilError {
  /** Number of the step, counted from 1. */
  readonly step: number;
  /** Name of the scalar: "loss". */
  readonly scalar: string;
  readonly value: number;
  /** The first op whose output was not finite, when a diagnosis found one. */
  readonly op: string | undefined;

  constructor(step: number, scalar: string, value: number, op: string | undefined, savedStep: number | undefined) {
    const where = op === undefined ? "" : `; the first op with a non-finite output is ${op}`;
    const saved =
      savedStep === undefined ? "no checkpoint was written" : `the last checkpoint, of step ${savedStep}, is intact`;
    super(
      "TREFOIL_NON_FINITE_LOSS",
      `${scalar} is ${value} at step ${step}${where}; ${saved}. Lower the learning rate, clip gradients, or check the data of that step`,
    );
    this.step = step;
    this.scalar = scalar;
    this.value = value;
    this.op = op;
  }
}

/** The metrics file cannot be read or written. */
export class MetricsError extends TrefoilError {}

/** What is to be gone on with was begun with other settings, data or models. */
export class ResumeError extends TrefoilError {
  constructor(message: string) {
    super("TREFOIL_RESUME", message);
  }
}

/** A result would replace one that is there. */
export class OutputExistsError extends TrefoilError {
  constructor(output: string) {
    super("TREFOIL_OUTPUT_EXISTS", `${output} exists already: name another output, or allow overwriting`);
  }
}

/** A result could not be written where it is to stand. */
export class OutputFolderError extends TrefoilError {
  constructor(output: string, folder: string, options?: ErrorOptions) {
    super(
      "TREFOIL_OUTPUT_FOLDER",
      `${output} could not be written: ${folder} is no folder, or no writable one; name another output`,
      options,
    );
  }
}

/** A run directory cannot be created, resumed or locked. */
export class RunDirectoryError extends TrefoilError {}
