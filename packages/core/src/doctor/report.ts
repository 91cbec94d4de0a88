import { existsSync, readFileSync } from "node:fs";
import { addonPaths, backendLibraryPaths, buildCommand } from "@trefoil/native";
import { Device, type DeviceOptions, DeviceUnavailableError } from "../device/index.js";

interface FoundDevice {
  readonly name: string;
  /** Marketing name of a GPU, "cpu" of the CPU. */
  readonly model: string;
  /** Instruction set, precision and who multiplies matrices: "avx512", "sm_90 bf16, cuBLASLt 13.1.0", "sm_90 bf16, own products". */
  readonly level: string;
  /** Threads of the CPU, multiprocessors of a GPU. */
  readonly threads: number;
}

export interface DoctorReport {
  readonly version: string;
  readonly node: string;
  readonly platform: string;
  /** Where the engine was looked for; `error` if it does not load. */
  readonly engine: { readonly paths: readonly string[]; readonly error?: string };
  /** First line of the driver's own version file; null where there is none. */
  readonly driver: string | null;
  /** Libraries of the CUDA backend that were looked for. */
  readonly libraries: readonly { readonly path: string; readonly exists: boolean }[];
  readonly devices: readonly FoundDevice[];
  /** Why there is no CUDA device. */
  readonly cuda?: string;
  readonly advice: readonly string[];
}

const driverFile = "/proc/driver/nvidia/version";

function readDriver(): string | null {
  if (!existsSync(driverFile)) return null;
  return readFileSync(driverFile, "utf8").split("\n")[0]?.trim() ?? null;
}

function describe(name: string, options?: DeviceOptions): FoundDevice {
  const { info } = new Device(name, options);
  return { name, model: info.name, level: info.isa, threads: info.threads };
}

/** All CUDA devices, or why there is none. */
function findCuda(): { devices: FoundDevice[]; reason?: string } {
  const devices: FoundDevice[] = [];
  for (;;) {
    try {
      devices.push(describe(`cuda:${devices.length}`));
    } catch (error) {
      if (devices.length > 0) return { devices };
      if (!(error instanceof Error)) throw error;
      const reason = error instanceof DeviceUnavailableError && error.cause instanceof Error ? error.cause : error;
      return { devices, reason: reason.message.split("\n")[0] ?? "" };
    }
  }
}

/** A CPU that multiplies bf16 itself trains faster so; to do it in f32 arithmetic is slower than f32. */
function adviseOnCpu(): string[] {
  const { info } = new Device("cpu:0", { precision: "bf16-products" });
  const unit = / by (\S+-BF16)$/.exec(info.isa)?.[1];
  if (unit === undefined) return [];
  return [
    `This CPU has ${unit}: add --precision bf16-products, or set TREFOIL_PRECISION, to train faster (1.4 to 1.7 times with AVX512-BF16) with operands of products rounded to bf16.`,
  ];
}

/** What to do for a GPU, in the order in which it is found missing: driver, library, a device that opens. */
export function adviseOnCuda(found: Pick<DoctorReport, "driver" | "libraries" | "devices">): string[] {
  if (found.devices.length > 0)
    return ["Add --device cuda to a command, or set TREFOIL_DEVICE=cuda, to compute on the GPU."];
  const advice: string[] = [];
  const built = found.libraries.some(({ exists }) => exists);
  if (found.driver === null) advice.push("For a GPU, install NVIDIA's driver. Without one everything runs on the CPU.");
  if (!built)
    advice.push(
      `Build the CUDA library with \`${buildCommand("cuda")}\` (needs nvcc 12.4 or newer, of the CUDA toolkit).`,
    );
  if (found.driver !== null && built)
    advice.push(
      "Driver and library are there, but no GPU opens, for the reason under cuda. If versions do not fit, update the driver, or build the library " +
        "again with a CUDA toolkit that the driver supports; if no device is listed, look at CUDA_VISIBLE_DEVICES and nvidia-smi.",
    );
  return advice;
}

/** Looks at this machine; opens every device once and throws nothing that a machine can cause. */
export function examine(version: string): DoctorReport {
  const base = {
    version,
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
    driver: readDriver(),
    libraries: backendLibraryPaths("cuda").map((path) => ({ path, exists: existsSync(path) })),
  };
  const paths = addonPaths();
  let cpu: FoundDevice;
  try {
    // Where the environment asks for CUDA's own precision, the CPU would refuse.
    cpu = describe("cpu:0", process.env.TREFOIL_PRECISION === "bf16" ? { precision: "f32" } : {});
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { ...base, engine: { paths, error: message }, devices: [], advice: [message.split("\n").at(-1) ?? message] };
  }
  const { devices, reason } = findCuda();
  const advice = [...adviseOnCpu(), ...adviseOnCuda({ ...base, devices })];
  return { ...base, engine: { paths }, devices: [cpu, ...devices], ...(reason && { cuda: reason }), advice };
}

/** The report as aligned lines. */
export function formatReport(report: DoctorReport): string {
  const lines: [string, string][] = [
    ["trefoil", report.version],
    ["node", `${report.node}, ${report.platform}`],
    ["engine", report.engine.error === undefined ? "loads" : "does not load"],
    ...report.engine.paths.map((path): [string, string] => ["  path", path]),
    ["driver", report.driver ?? "none found"],
    ...report.devices.map(({ name, model, level, threads }): [string, string] => [
      name,
      name.startsWith("cpu") ? `${level}, ${threads} threads` : `${model}, ${level}, ${threads} multiprocessors`,
    ]),
  ];
  if (report.cuda !== undefined) lines.push(["cuda", `unavailable: ${report.cuda}`]);
  for (const { path, exists } of report.libraries)
    lines.push(["  library", `${path}: ${exists ? "there" : "no such file"}`]);
  for (const advice of report.advice) lines.push(["to do", advice]);
  return `${lines.map(([key, value]) => `${key.padEnd(12)}${value}`).join("\n")}\n`;
}
