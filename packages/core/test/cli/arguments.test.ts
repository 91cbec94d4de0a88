import { expect, test } from "vitest";
import { z } from "zod";
import { defineCommand } from "../../src/cli/index.js";
import { runInMemory } from "./run-in-memory.js";

const print = (name: string, schema: z.ZodObject) =>
  defineCommand({
    name,
    summary: "Print the configuration.",
    schema,
    run: async (config, { stdout }) => {
      stdout.write(JSON.stringify(config));
    },
  });
const output = z.string().default("none").describe("File.").meta({ placeholder: "file", short: "o" });
const commands = [
  print("one", z.strictObject({ caption: z.string().describe("Text.").meta({ positional: true }), output })),
  print(
    "many",
    z.strictObject({ image: z.array(z.string()).describe("Pictures.").meta({ positional: true }), output }),
  ),
  print("none", z.strictObject({ caption: z.string().default("") })),
];

test("arguments without a flag go to the field that takes them, short flags to theirs", async () => {
  const parsed = async (...argv: string[]) => JSON.parse((await runInMemory(commands, argv)).stdout) as unknown;
  expect(await parsed("one", "a red circle", "-o", "x.png")).toEqual({ caption: "a red circle", output: "x.png" });
  expect(await parsed("one", "-o", "x.png", "true")).toEqual({ caption: "true", output: "x.png" });
  const image = ["a,b.png", "c d.png", "e.png", "f.png"];
  expect(await parsed("many", image[0]!, "--output", "o", image[1]!, "--image", "e.png,f.png")).toEqual({
    image,
    output: "o",
  });
});

test("what no field takes, or one already has, is wrong usage", async () => {
  for (const argv of [
    ["none", "stray"],
    ["one", "a", "red"],
    ["one", "--caption", "a", "red"],
    ["one", "a", "-x"],
  ]) {
    const { code, stderr } = await runInMemory(commands, argv);
    expect(code).toBe(2);
    expect(stderr).toContain("unexpected argument");
  }
});

test("help shows both", async () => {
  const { stdout } = await runInMemory(commands, ["many", "--help"]);
  expect(stdout).toContain("btx many [image…] [--config <file.yaml>] [flags]");
  expect(stdout).toContain("-o, --output <file>");
  expect(stdout).toMatch(/Pictures\.\s+list of string .*also without the flag/s);
});
