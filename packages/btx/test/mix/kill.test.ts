import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ModelFolder } from "@trefoil/core";
import { expect, it } from "vitest";
import { mix, planMix } from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";

const library = fileURLToPath(new URL("../../dist/index.js", import.meta.url));

it("leaves no folder under the output's name when it is killed, and mixes anew", async () => {
  const folder = temporaryFolder();
  const experts = [
    await writeCheckpoint(join(folder, "a"), { seed: 1 }),
    await writeCheckpoint(join(folder, "b"), { seed: 2 }),
  ];
  const output = join(folder, "moe");
  const { tensors } = await planMix({ experts, output });
  // Killed by itself at the first, a middle and the last tensor: SIGKILL, so that nothing can be cleaned up.
  for (const at of [1, Math.floor(tensors.length / 2), tensors.length]) {
    const script = `
      import { mix } from ${JSON.stringify(library)};
      let seen = 0;
      await mix({ experts: ${JSON.stringify(experts)}, output: ${JSON.stringify(output)},
        onProgress: () => { if (++seen === ${at}) process.kill(process.pid, "SIGKILL"); } });`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", script]);
    const [, signal] = await once(child, "exit");
    expect(signal).toBe("SIGKILL");
    expect(existsSync(output)).toBe(false);
  }
  // The last run's temporary folder is there, those before it were removed by the next run.
  const leftovers = () => readdirSync(folder).filter((name) => name.startsWith(".tmp-"));
  expect(leftovers()).toHaveLength(1);
  await mix({ experts, output });
  expect(readdirSync(folder).sort()).toEqual(["a", "b", "moe"]);
  expect(readdirSync(output)).not.toContain(".owner.json");
  await using mixed = await ModelFolder.open(output);
  expect(mixed.tensors.size).toBe(tensors.length);
});
