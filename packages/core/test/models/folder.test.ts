import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { ByteTokenizer, createModel, loadModel, newLlamaConfig, saveModel } from "../../src/index.js";
import { scratch } from "../io/folders.js";

it("a folder may have a name as long as names may be", async () => {
  const folder = join(await scratch(), "n".repeat(255));
  const sizes = { hiddenSize: 16, intermediateSize: 24, layers: 1, heads: 2, keyValueHeads: 1, maxPositions: 32 };
  const config = newLlamaConfig(sizes, new ByteTokenizer(), { tieWordEmbeddings: true, initializerRange: 0.02 });
  await saveModel(createModel(config), folder, { config });
  await loadModel(folder);
});

it.each([
  { num_hidden_layers: 2 ** 31 },
  { intermediate_size: 2 ** 40 },
  { vocab_size: 2 ** 40 },
  { max_position_embeddings: 2 ** 40 },
])("a configuration of far more than the files hold is refused before memory is: %o", async (change) => {
  const folder = join(await scratch(), "model");
  const sizes = { hiddenSize: 16, intermediateSize: 24, layers: 2, heads: 2, keyValueHeads: 1, maxPositions: 32 };
  const config = newLlamaConfig(sizes, new ByteTokenizer(), { tieWordEmbeddings: true, initializerRange: 0.02 });
  await saveModel(createModel(config), folder, { config });
  await loadModel(folder);
  const file = join(folder, "config.json");
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), ...change }));
  await expect(loadModel(folder)).rejects.toMatchObject({ code: "MODEL_FOLDER_INVALID_CONFIG" });
});
