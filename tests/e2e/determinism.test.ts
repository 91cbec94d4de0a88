import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const script = fileURLToPath(new URL("train-digest.mjs", import.meta.url));

async function digest(environment: Record<string, string>): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [script], { env: { ...process.env, ...environment } });
  return stdout.trim();
}

it("trains to the same bits with 1, 2 and 5 threads", async () => {
  const one = await digest({ TREFOIL_THREADS: "1" });
  expect(one).toMatch(/^[0-9a-f]{64} \d+\.\d+$/);
  expect(await digest({ TREFOIL_THREADS: "2" })).toBe(one);
  expect(await digest({ TREFOIL_THREADS: "5" })).toBe(one);
}, 120_000);
