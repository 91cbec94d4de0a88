import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readCaptionRows } from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { trainSmallGenerator, trainSmallTokenizer } from "../pipeline/small.js";

const cli = join(import.meta.dirname, "../../bin/synth2.js");

describe("synth2 synthesize", () => {
  it("killed at any moment and run again, writes the same files", async () => {
    const folder = await temporaryFolder();
    const [tokenizer, generator, captions] = ["tokenizer", "generator", "captions.jsonl"].map((name) =>
      join(folder, name),
    ) as [string, string, string];
    await trainSmallTokenizer(tokenizer, 1);
    await trainSmallGenerator(tokenizer, generator, 1);
    const lines = Array.from({ length: 200 }, (_, i) => JSON.stringify({ caption: `${i} red circles` }));
    await writeFile(captions, `${lines.join("\n")}\n`);
    const run = (output: string, killAt?: string): Promise<NodeJS.Signals | null> => {
      const args = ["synthesize", "--captions", captions, "--generator", generator, "--tokenizer", tokenizer];
      const more = ["--output", output, "--pixels", "--shard-size", "4", "--sampling.steps", "4"];
      const child = spawn(process.execPath, [cli, ...args, ...more], { stdio: "ignore" });
      const watch = setInterval(() => {
        if (killAt && existsSync(join(output, killAt))) child.kill("SIGKILL");
      }, 1);
      return new Promise((resolve, reject) => {
        child.on("close", (code, signal) => {
          clearInterval(watch);
          if (code) reject(new Error(`synthesize ended with ${code}`));
          else resolve(signal);
        });
      });
    };
    const [whole, killed] = [join(folder, "whole"), join(folder, "killed")];
    expect(await run(whole)).toBeNull();
    expect(await run(killed, "synthesis.json")).toBe("SIGKILL");
    expect(await run(killed, "shard-00002.jsonl")).toBe("SIGKILL");
    expect(existsSync(join(killed, "shard-00049.safetensors"))).toBe(false);
    expect(await run(killed)).toBeNull();
    const contents = (path: string) => {
      const names = readdirSync(path).filter((name) => /^(synthesis|shard)/.test(name));
      return Promise.all(names.sort().map(async (name) => [name, await readFile(join(path, name))] as const));
    };
    const files = await contents(whole);
    expect(files).toHaveLength(101);
    expect(await contents(killed)).toEqual(files);
  }, 60_000);

  it("names pictures by line, and says which line is no caption", async () => {
    const file = join(await temporaryFolder(), "captions.jsonl");
    await writeFile(file, '\ufeff{"caption":"a"}\n\n{"id":7,"caption":"b","class":"x"}\n{"text":"c"}\n');
    const rows = readCaptionRows(file);
    expect((await rows.next()).value).toEqual({ id: "1", caption: "a" });
    expect((await rows.next()).value).toEqual({ id: "7", caption: "b" });
    await expect(rows.next()).rejects.toThrow(/line 4/);
    // A pair of some picture with nothing to say of it would be learned as such.
    await writeFile(file, '{"caption":" "}\n');
    await expect(readCaptionRows(file).next()).rejects.toThrow(/line 1, has an empty caption/);
    await expect(readCaptionRows(`${file}-none`).next()).rejects.toMatchObject({ code: "SYNTH_DATA" });
  });
});
