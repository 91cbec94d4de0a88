// The CUDA library as nvcc makes it, linked with a stand-in for the CUDA runtime (native/test/fake_cudart): what it launches, at the sizes of
// benches and trainings as well, fits the devices it is for. Kernels do not run. Only where nvcc was found.
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const native = join(import.meta.dirname, "../../native");
const faked = join(native, "build-cuda/faked");
const library = join(faked, "libtrefoil_cuda.so");

interface Report {
  device: string;
  launches: number;
  replayed: number;
  peak_bytes: number;
  wrong: string[];
  idle: string[];
  kernels: {
    name: string;
    threads: number;
    registers: number;
    shared: number;
    blocks: number;
    resident: number;
    launches: number;
    early: number;
  }[];
}

const everywhere = { TREFOIL_DEVICE: "", TREFOIL_PRECISION: "", TREFOIL_MATMUL: "", TREFOIL_CUDA_WGMMA: "" };
const wgmma = { TREFOIL_MATMUL: "own", TREFOIL_CUDA_WGMMA: "1" };
const onePass = { ...wgmma, TREFOIL_CUDA_ATTENTION_GRADIENT: "one-pass" };

describe.skipIf(!existsSync(library))("launches on a GPU that is played", { timeout: 300_000 }, () => {
  let folder: string;
  let runs = 0;
  const idle: string[][] = []; // of each run of the op tests on the default device: kernels that were not launched
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "trefoil-launches-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** Runs a program over the stand-in; what it printed, and what was launched. */
  async function play(program: string, args: string[], settings: Record<string, string> = {}) {
    const path = join(folder, `report-${runs++}.jsonl`);
    const env = { ...process.env, ...everywhere, ...settings, TREFOIL_FAKE_CUDART_REPORT: path };
    const { stdout } = await promisify(execFile)(program, args, { env, maxBuffer: 1 << 26 });
    const reports = readFileSync(path, "utf8").trim().split("\n");
    expect(reports).toHaveLength(1); // one process, that ended well
    return { stdout, report: JSON.parse(reports[0] as string) as Report };
  }
  const opTests = (parts: string[], settings?: Record<string, string>) =>
    play(join(native, "build/trefoil_tests"), [`--backend=${library}`, "--launches-only", ...parts], settings);
  const bench = (args: string[], settings?: Record<string, string>) =>
    play(join(faked, "cuda_bench"), [library, "--seconds=0.0001", ...args], settings);

  it.each([
    ["h200", [], {}],
    ["rtx3090", [], {}],
    ["h200", ["cuda_bf16"], wgmma],
    ["h200", ["in_one_pass"], onePass],
  ])("takes the launches of the op tests: %s %j %j", async (device, parts, settings) => {
    const { stdout, report } = await opTests(parts, { ...settings, TREFOIL_FAKE_DEVICE: device });
    expect(stdout).toMatch(/^\d+ passed, 0 failed$/m);
    expect(report.wrong).toEqual([]);
    expect(report.launches).toBeGreaterThan(500);
    if (device === "h200") idle.push(report.idle);
  });

  // What no op test launches, neither the emulator nor a device would check.
  it("leaves no kernel of the library out of the op tests", () => {
    expect(idle).toHaveLength(3);
    const untested = idle.reduce((left, names) => left.filter((name) => names.includes(name)));
    expect(untested).toEqual(["trefoil::cuda::platform::(anonymous namespace)::no_kernel()"]);
  });

  it.each([
    ["bf16", "h200", [], {}],
    ["f32", "h200", [], {}],
    ["bf16", "rtx4090", [], {}],
    ["bf16", "h200", ["matmul", "moe layer", "attention", "linear_cross_entropy"], wgmma],
    ["bf16", "h200", ["matmul", "moe layer"], { ...wgmma, TREFOIL_CUDA_WGMMA: "256x2" }],
    ["bf16", "h200", ["attention_grad"], onePass],
  ])("takes the lines of the bench: %s on %s %j %j", async (precision, device, parts, settings) => {
    const { stdout, report } = await bench([`--precision=${precision}`, ...parts], {
      ...settings,
      TREFOIL_FAKE_DEVICE: device,
    });
    const { lines } = JSON.parse(stdout) as { lines: { name: string; error?: string }[] };
    expect(lines.length).toBeGreaterThan(parts.length ? 5 : 60);
    expect(lines.filter(({ error }) => error)).toEqual([]);
    expect(report.wrong).toEqual([]);
  });

  // Weights of a billion numbers are made on the host.
  describe.skipIf(totalmem() < 12 * 2 ** 30)("whole models", () => {
    let addon: string;
    beforeAll(() => {
      addon = join(folder, "trefoil.node"); // its folder is where the library is looked for
      symlinkSync(join(native, "build/Release/trefoil.node"), addon);
      for (const name of readdirSync(faked).filter((file) => file.endsWith(".so")))
        symlinkSync(join(faked, name), join(folder, name));
    });

    it.each(["dense-1.1b", "moe-4x0.3b"])("takes recorded training steps of %s", async (model) => {
      const script = join(native, "lab/training_bench.mjs");
      const { stdout, report } = await play(process.execPath, [script, "--model", model, "--steps", "3"], {
        TREFOIL_NATIVE_PATH: addon,
      });
      expect(JSON.parse(stdout)).toMatchObject({ activations: "bf16", losses: [0, 0] });
      expect(report.wrong).toEqual([]);
      expect(report.replayed).toBeGreaterThan(1000);
      expect(report.peak_bytes).toBeLessThan(40e9);
    });

    it("takes recorded decoding steps", async () => {
      const script = join(native, "lab/decode_bench.mjs");
      const { report } = await play(process.execPath, [script, "--tokens", "8"], { TREFOIL_NATIVE_PATH: addon });
      expect(report.wrong).toEqual([]);
      expect(report.replayed).toBeGreaterThan(1000);
      // A layer of a step: four products that finish themselves, two norms (one more after all layers), and one each of these.
      const launches = (part: string) =>
        report.kernels.filter(({ name }) => name.includes(part)).reduce((total, kernel) => total + kernel.launches, 0);
      const layers = launches("::decode_kernel<");
      expect(layers).toBeGreaterThan(22);
      expect(launches("::gemm_bf16_cluster<")).toBe(4 * layers);
      for (const gone of ["add_partials", "update_rows", "check_positions", "::rope_kernel"])
        expect(launches(gone)).toBe(0);
    });

    it("takes decoding steps whose kernels begin early", async () => {
      const script = join(native, "lab/decode_bench.mjs");
      const settings = { TREFOIL_NATIVE_PATH: addon, TREFOIL_MATMUL: "own", TREFOIL_CUDA_PDL: "1" };
      const { report } = await play(process.execPath, [script, "--tokens", "8"], settings);
      expect(report.wrong).toEqual([]);
      const counted = (part: string, what: "launches" | "early") =>
        report.kernels.filter(({ name }) => name.includes(part)).reduce((total, kernel) => total + kernel[what], 0);
      for (const kernel of ["gemm_bf16_cluster<", "decode_kernel<", "rope_to_cache_kernel<", "swiglu_kernel<"])
        expect(counted(kernel, "early")).toBeGreaterThan(counted(kernel, "launches") / 2); // the first steps are not recorded
      expect(counted("elementwise_kernel", "early")).toBe(0);
    });
  });
});
