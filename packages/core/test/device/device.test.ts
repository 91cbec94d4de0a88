import { existsSync } from "node:fs";
import { expect, it } from "vitest";
import { doctor } from "../../src/doctor/command.js";
import { adviseOnCuda } from "../../src/doctor/report.js";
import { Device, DeviceUnavailableError, device } from "../../src/index.js";
import { runInMemory } from "../cli/run-in-memory.js";

function failure(name: string, options = {}): DeviceUnavailableError {
  try {
    new Device(name, options);
  } catch (error) {
    if (error instanceof DeviceUnavailableError) return error;
    throw error;
  }
  throw new Error("the device opened");
}

it.each(["tpu!", "cuda:x", "", "cuda:12345", "gpu", "tpu:0"])("refuses the name %j", (name) => {
  expect(failure(name).message).toMatch(/Write "cpu", "cuda" or "cuda:1"/);
});

it("says which library it looked for, and how to get it", () => {
  const error = failure("cuda", { library: "/nowhere/libtrefoil_cuda.so" });
  expect(error.code).toBe("TREFOIL_DEVICE_UNAVAILABLE");
  expect(error.attempts).toEqual([{ path: "/nowhere/libtrefoil_cuda.so", reason: "no such file" }]);
  expect(error.message).toMatch(/\/nowhere\/libtrefoil_cuda\.so: no such file\n.*build-cuda\.mjs/s);
});

it.skipIf(existsSync("/dev/nvidiactl"))("leaves everything else working without a GPU", async () => {
  const error = failure("cuda");
  expect(error.message).toContain('Device "cuda" is not available');
  expect(error.message).toContain("npm run doctor");
  expect(device("cpu").info.backend).toBe("cpu");
});

it("examines the machine", async () => {
  const { code, stdout } = await runInMemory([doctor], ["doctor", "--json"]);
  const report = JSON.parse(stdout);
  expect(code).toBe(0);
  expect(report).toMatchObject({ node: process.versions.node, engine: {} });
  expect(report.devices[0]).toEqual({
    name: "cpu:0",
    model: "cpu",
    level: device("cpu").info.isa,
    threads: device("cpu").info.threads,
  });
  expect(report.libraries[0].path).toMatch(/libtrefoil_cuda\.so$/);
  const text = (await runInMemory([doctor], ["doctor"])).stdout;
  for (const word of ["node", "engine", "driver", "cpu:0", "library"])
    expect(text).toMatch(new RegExp(`^ *${word} `, "m"));
  if (report.devices.length === 1) expect(text).toMatch(/^cuda +unavailable: .+\n/m);
});

it("says what to do about the GPU, whatever is missing", () => {
  const library = (exists: boolean) => [{ path: "/somewhere/libtrefoil_cuda.so", exists }];
  const advice = (driver: string | null, exists: boolean) =>
    adviseOnCuda({ driver, libraries: library(exists), devices: [] }).map((line) =>
      line.split(" ").slice(0, 4).join(" "),
    );
  expect(advice(null, false)).toEqual(["For a GPU, install", "Build the CUDA library"]);
  expect(advice(null, true)).toEqual(["For a GPU, install"]);
  expect(advice("NVRM version: 550", false)).toEqual(["Build the CUDA library"]);
  expect(advice("NVRM version: 550", true)).toEqual(["Driver and library are"]);
  const gpu = { name: "cuda:0", model: "H100", level: "sm_90", threads: 132 };
  expect(adviseOnCuda({ driver: null, libraries: library(true), devices: [gpu] })).toEqual([
    expect.stringContaining("--device cuda"),
  ]);
});
