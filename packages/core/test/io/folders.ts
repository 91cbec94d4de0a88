import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach } from "vitest";

/** Files written by the Python libraries: see tests/conformance/make_io_fixtures.py. */
export const fixtures = fileURLToPath(new URL("../../../../tests/conformance/fixtures/io", import.meta.url));

const made: string[] = [];

afterEach(async () => {
  for (const folder of made.splice(0)) await rm(folder, { recursive: true, force: true });
});

/** A folder that is removed after the test. */
export async function scratch(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "trefoil-test-"));
  made.push(folder);
  return folder;
}
