import { buildCommand, type LoadAttempt, TrefoilError } from "@trefoil/native";

const cudaFix =
  `CUDA needs an NVIDIA GPU (Ampere or newer) with its driver, and the library that \`${buildCommand("cuda")}\` makes where nvcc ` +
  "12.4 or newer is installed. `npx trefoil doctor` (`npm run doctor` in the repository) shows what this machine has; without a GPU " +
  "leave out --device and TREFOIL_DEVICE.";

/** A device that cannot be used here. `attempts` lists the libraries that were looked for. */
export class DeviceUnavailableError extends TrefoilError {
  readonly device: string;
  readonly attempts: readonly LoadAttempt[];

  constructor(
    device: string,
    reason: string,
    attempts: readonly LoadAttempt[] = [],
    fix: string = cudaFix,
    options?: ErrorOptions,
  ) {
    const tried = attempts.map(({ path, reason: why }) => `  ${path}: ${why}\n`).join("");
    const paths = tried === "" ? " " : `\nTried\n${tried}`;
    super("TREFOIL_DEVICE_UNAVAILABLE", `Device "${device}" is not available: ${reason}.${paths}${fix}`, options);
    this.device = device;
    this.attempts = attempts;
  }
}
