import { mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  encodeFloats,
  ModelFolder,
  ModelFolderWriter,
  readTransformerConfig,
  type StoredTensor,
  saveSafetensors,
} from "../../src/io/index.js";
import { scratch } from "./folders.js";

const tensor = (...values: number[]): StoredTensor => ({
  dtype: "F32",
  shape: [values.length],
  data: Float32Array.from(values),
});

async function sharded(
  weightMap: Record<string, string>,
  shards: Record<string, Record<string, StoredTensor>>,
): Promise<string> {
  const folder = await scratch();
  for (const [file, tensors] of Object.entries(shards)) await saveSafetensors(join(folder, file), tensors);
  await writeFile(
    join(folder, "model.safetensors.index.json"),
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  );
  return folder;
}

describe("ModelFolder", () => {
  it("reads shards as one model", async () => {
    const folder = await sharded(
      { a: "1.safetensors", b: "2.safetensors" },
      { "1.safetensors": { a: tensor(1) }, "2.safetensors": { b: tensor(2, 3) } },
    );
    await using model = await ModelFolder.open(folder);
    expect([...model.tensors.keys()]).toEqual(["a", "b"]);
    expect(await model.readF32("b")).toEqual(Float32Array.of(2, 3));
    await expect(model.readF32("c")).rejects.toMatchObject({ code: "MODEL_FOLDER_UNKNOWN_TENSOR" });
    await expect(model.readJson("config.json")).rejects.toMatchObject({ code: "MODEL_FOLDER_MISSING" });
  });

  it.each([
    "../secret.safetensors",
    "x/../../secret.safetensors",
    "/etc/passwd",
    "C:\\secret",
    "..\\secret",
    "",
    "a\0b",
  ])("refuses the file name %j in an index", async (name) => {
    const folder = await sharded({ a: name }, {});
    await expect(ModelFolder.open(folder)).rejects.toMatchObject({ code: "MODEL_FOLDER_UNSAFE_PATH" });
  });

  it("refuses links out of the folder, except into the blobs of a Hugging Face cache", async () => {
    const root = await scratch();
    const [snapshot, other] = [join(root, "snapshots", "abc"), join(root, "plain")];
    for (const folder of [snapshot, other, join(root, "blobs")]) await mkdir(folder, { recursive: true });
    await saveSafetensors(join(root, "blobs", "0123"), { a: tensor(7) });
    for (const folder of [snapshot, other])
      await symlink(`${folder === snapshot ? "../.." : ".."}/blobs/0123`, join(folder, "model.safetensors"));
    await using model = await ModelFolder.open(snapshot);
    expect(await model.readF32("a")).toEqual(Float32Array.of(7));
    await expect(ModelFolder.open(other)).rejects.toMatchObject({ code: "MODEL_FOLDER_UNSAFE_PATH" });
  });

  it("says what a folder is that is no model", async () => {
    const folder = await scratch();
    const why = (path: string) =>
      readTransformerConfig(path).then(
        () => "",
        (error: Error) => error.message,
      );
    expect(await why(folder)).toBe(`${folder}: there is no config.json`);
    expect(await why(join(folder, "org", "name"))).toContain("there is no such folder");
    await writeFile(join(folder, "adapter_config.json"), "{}");
    expect(await why(folder)).toContain("but an adapter");
    expect(await why(join(folder, "adapter_config.json"))).toContain("this is a file");
  });

  it("refuses an index that does not match its files", async () => {
    const one = { "1.safetensors": { a: tensor(1) } };
    const cases: [Record<string, string>, Record<string, Record<string, StoredTensor>>, string][] = [
      [{ a: "1.safetensors", b: "1.safetensors" }, one, "MODEL_FOLDER_MISSING_TENSOR"],
      [{ a: "2.safetensors" }, one, "MODEL_FOLDER_MISSING_SHARD"],
      [
        { a: "1.safetensors", b: "2.safetensors" },
        { ...one, "2.safetensors": { a: tensor(1), b: tensor(1) } },
        "MODEL_FOLDER_DUPLICATE_TENSOR",
      ],
      [{ a: "1.safetensors" }, { "1.safetensors": { a: tensor(1), b: tensor(2) } }, "MODEL_FOLDER_UNLISTED_TENSOR"],
      [
        { a: "2.safetensors", b: "1.safetensors" },
        { "1.safetensors": { a: tensor(1) }, "2.safetensors": { b: tensor(1) } },
        "MODEL_FOLDER_MISSING_TENSOR",
      ],
    ];
    for (const [map, shards, code] of cases)
      await expect(ModelFolder.open(await sharded(map, shards))).rejects.toMatchObject({ code });
    const folder = await scratch();
    await expect(ModelFolder.open(folder)).rejects.toMatchObject({ code: "MODEL_FOLDER_MISSING" });
    const index = join(folder, "model.safetensors.index.json");
    for (const [text, code] of [
      ['{"weight_map":{"a":"x","a":"y"}}', "MODEL_FOLDER_DUPLICATE_TENSOR"],
      ['{"weight_map":{"a":1}}', "MODEL_FOLDER_INVALID_INDEX"],
      ["{}", "MODEL_FOLDER_INVALID_INDEX"],
      ["nonsense", "MODEL_FOLDER_INVALID_INDEX"],
    ] as const) {
      await writeFile(index, text);
      await expect(ModelFolder.open(folder)).rejects.toMatchObject({ code });
    }
  });
});

describe("ModelFolderWriter", () => {
  const declarations = ["c", "a", "b"].map((name) => ({ name, dtype: "F32" as const, shape: [4] }));
  const bytes = (value: number) => encodeFloats("F32", new Float32Array(4).fill(value));

  it("fills shards in order and writes an index", async () => {
    const folder = join(await scratch(), "parent", "model");
    const writer = await ModelFolderWriter.create(folder, declarations, { shardBytes: 32 });
    for (const [i, name] of ["a", "b", "c"].entries()) await writer.write(name, bytes(i));
    await writer.writeFile("config.json", { model_type: "llama" });
    expect(await readdir(join(folder, ".."))).toEqual([expect.stringMatching(/^\.tmp-model-/)]);
    await writer.finish();
    expect(await readdir(join(folder, ".."))).toEqual(["model"]);
    expect((await readdir(folder)).sort()).toEqual([
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ]);
    expect(JSON.parse(await readFile(join(folder, "model.safetensors.index.json"), "utf8"))).toEqual({
      metadata: { total_size: 48 },
      weight_map: {
        a: "model-00001-of-00002.safetensors",
        b: "model-00002-of-00002.safetensors",
        c: "model-00001-of-00002.safetensors",
      },
    });
    await using model = await ModelFolder.open(folder);
    expect(await model.readF32("b")).toEqual(new Float32Array(4).fill(1));
  });

  it("writes one file without an index, copies tokenizer files, and refuses an existing folder", async () => {
    const [root, source] = [await scratch(), await scratch()];
    await writeFile(join(source, "tokenizer.json"), "{}");
    await writeFile(join(source, "unrelated.txt"), "");
    const folder = join(root, "model");
    const write = async (value: number, overwrite: boolean) => {
      const writer = await ModelFolderWriter.create(folder, declarations, { overwrite });
      for (const { name } of declarations) await writer.write(name, bytes(value));
      expect(await writer.copyFiles(source)).toEqual(["tokenizer.json"]);
      await expect(writer.writeFile("../escape", "x")).rejects.toMatchObject({ code: "MODEL_FOLDER_UNSAFE_PATH" });
      await writer.finish();
    };
    await write(1, false);
    expect((await readdir(folder)).sort()).toEqual(["model.safetensors", "tokenizer.json"]);
    await expect(write(2, false)).rejects.toMatchObject({ code: "MODEL_FOLDER_EXISTS" });
    await write(3, true);
    await using model = await ModelFolder.open(folder);
    expect(await model.readF32("a")).toEqual(new Float32Array(4).fill(3));
    expect(await readdir(root)).toEqual(["model"]);
  });

  it("leaves an existing folder as it was when the new one is incomplete", async () => {
    const root = await scratch();
    const folder = join(root, "model");
    await mkdir(folder);
    await writeFile(join(folder, "precious"), "");
    const writer = await ModelFolderWriter.create(folder, declarations, { overwrite: true, shardBytes: 16 });
    await writer.write("a", bytes(1));
    await expect(writer.finish()).rejects.toMatchObject({ code: "SAFETENSORS_INCOMPLETE" });
    expect(await readdir(root)).toEqual(["model"]);
    expect(await readdir(folder)).toEqual(["precious"]);
    await expect(ModelFolderWriter.create(join(root, "new"), [...declarations, ...declarations])).rejects.toMatchObject(
      { code: "MODEL_FOLDER_DUPLICATE_TENSOR" },
    );
    expect(await readdir(root)).toEqual(["model"]);
  });
});
