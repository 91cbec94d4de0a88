// Build folders that CMake refuses to configure again.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
// @ts-expect-error: a script, without types
import { configure } from "../scripts/configure.mjs";

function project() {
  const folder = mkdtempSync(join(tmpdir(), "trefoil configure "));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const source = join(folder, "source");
  mkdirSync(source);
  writeFileSync(join(source, "CMakeLists.txt"), "cmake_minimum_required(VERSION 3.20)\nproject(nothing NONE)\n");
  return { folder, source };
}
const cmake =
  (source: string, generator = "Unix Makefiles") =>
  () =>
    spawnSync("cmake", ["-S", source, "-B", join(source, "build"), "-G", generator], { encoding: "utf8" });

it("begins a build folder anew whose checkout was moved", () => {
  const { folder, source } = project();
  expect(configure(join(source, "build"), cmake(source)).status).toBe(0);
  const moved = join(folder, "moved");
  renameSync(source, moved);
  expect(cmake(moved)().stderr).toContain("different than the directory");
  expect(configure(join(moved, "build"), cmake(moved)).status).toBe(0);
});

it("begins a build folder anew where another generator is wanted, and reports what fails twice", () => {
  const { source } = project();
  expect(configure(join(source, "build"), cmake(source)).status).toBe(0);
  const cache = join(source, "build", "CMakeCache.txt");
  const remembered = readFileSync(cache, "utf8");
  writeFileSync(cache, remembered.replace("CMAKE_GENERATOR:INTERNAL=Unix Makefiles", "CMAKE_GENERATOR:INTERNAL=Ninja"));
  expect(cmake(source)().stderr).toContain("Does not match the generator used previously");
  expect(configure(join(source, "build"), cmake(source)).status).toBe(0);
  expect(configure(join(source, "build"), cmake(source, "none such")).stderr).toContain(
    "Could not create named generator",
  );
});
