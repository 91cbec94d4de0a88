import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";

const folder = mkdtempSync(join(tmpdir(), "trefoil-loader-"));
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

it("says what was tried, why it failed and what to do", async () => {
  const path = join(folder, "trefoil.node");
  const load = async () => {
    vi.stubEnv("TREFOIL_NATIVE_PATH", path);
    vi.resetModules();
    const { addon, NativeLoadError, TrefoilError } = await import("../index.js");
    try {
      addon();
    } catch (error) {
      expect(error).toBeInstanceOf(NativeLoadError);
      expect(error).toBeInstanceOf(TrefoilError);
      return error as InstanceType<typeof NativeLoadError>;
    }
    throw new Error("the addon loaded");
  };
  const missing = await load();
  expect(missing.code).toBe("TREFOIL_NATIVE_MISSING");
  expect(missing.attempts).toEqual([{ path, reason: "no such file" }]);
  expect(missing.message).toContain(path);
  expect(missing.message).toContain("unset");

  writeFileSync(path, "not a library");
  const broken = await load();
  expect(broken.attempts[0]?.reason).toMatch(/invalid ELF header|file too short|not a mach-o/i);
  expect(broken.cause).toBeInstanceOf(Error);
});
