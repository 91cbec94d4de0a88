import {
  type CausalLM,
  createModel,
  type DecoderConfig,
  diskLayout,
  encodeFloats,
  gatherRows,
  InitialValues,
  Linear,
  linear,
  llamaConfigJson,
  loadTokenizer,
  loadWeights,
  ModelFolder,
  ModelFolderWriter,
  Module,
  type Parameter,
  parseTransformerConfig,
  reshape,
  type Tensor,
  type Tokenizer,
  type TransformerConfig,
} from "@trefoil/core";
import { RlhfError } from "../errors.js";
import { type EpisodeBatch, statesRead } from "./sequences.js";

/** A decoder with one number per position: a reward model (read at the last token) or a critic (read at every one). */
export class ScoreModel extends Module {
  readonly trunk: CausalLM;
  /** [1, hidden], no bias: `score` of Hugging Face's `LlamaForSequenceClassification`. */
  readonly score: Linear;

  constructor(trunk: CausalLM, seed: number) {
    super();
    this.trunk = trunk;
    const { hiddenSize } = trunk.config;
    // As in "The N+ implementation details of RLHF with PPO" (arXiv 2403.17031), detail 11.
    const standardDeviation = 1 / Math.sqrt(hiddenSize + 1);
    this.score = new Linear(hiddenSize, 1, { bias: false, standardDeviation, initial: new InitialValues(seed) });
  }

  /**
   * @param tokens i32 [batch, sequence]
   * @param index i32 [n]: rows of batch * sequence; -1 gives 0
   * @param context segments and positions, i32 [batch, sequence]: for padding that comes first, and for several texts in a row
   * @returns [n]
   */
  scoresAt(tokens: Tensor, index: Tensor, context: { segments?: Tensor; positions?: Tensor } = {}): Tensor {
    const hidden = reshape(this.trunk.hidden(tokens, context).hidden, [-1, this.trunk.config.hiddenSize]);
    return this.head(gatherRows(hidden, index));
  }

  /** The same of the states that a batch reads, [n]. */
  scores(batch: EpisodeBatch): Tensor {
    return this.head(statesRead(this.trunk, batch));
  }

  /** From states that are there already, [n, hidden]. */
  head(states: Tensor): Tensor {
    return reshape(linear(states, this.score.weight), [states.shape[0]!]);
  }
}

/** The trunk has no output projection of its own: tied, so that none is made. */
const trunkConfig = <C extends DecoderConfig>(config: C): C => ({ ...config, tieWordEmbeddings: true });

/** A score model on the trunk of a policy (or reward model) folder, with a fresh head unless the folder has one. */
export async function loadScoreModel(
  path: string,
  seed = 0,
): Promise<{ model: ScoreModel; config: TransformerConfig; bias: number }> {
  await using folder = await ModelFolder.open(path);
  const config = parseTransformerConfig(await folder.readJson("config.json"), path);
  const model = new ScoreModel(createModel(trunkConfig(config)), seed);
  await loadWeights(model.trunk, folder, path);
  if (folder.tensors.has("score.weight")) {
    const data = await folder.readF32("score.weight");
    if (data.length !== config.hiddenSize) {
      throw new RlhfError(
        "RLHF_MODEL",
        `${path} has ${data.length / config.hiddenSize} labels; a reward model has one`,
      );
    }
    model.score.weight.set(data);
  }
  const { reward_bias: bias } = config.raw;
  return { model, config, bias: typeof bias === "number" ? bias : 0 };
}

/** A reward model folder in memory. */
export class OpenRewardModel implements Disposable {
  private constructor(
    readonly path: string,
    readonly model: ScoreModel,
    /** Added to every score. */
    readonly bias: number,
    readonly tokenizer: Tokenizer,
  ) {}

  /** @throws RlhfError `RLHF_MODEL` when the folder has no score head */
  static async open(path: string): Promise<OpenRewardModel> {
    {
      await using folder = await ModelFolder.open(path);
      if (!folder.tensors.has("score.weight")) {
        throw new RlhfError(
          "RLHF_MODEL",
          `${path} is no reward model: it has no "score.weight". Train one with \`contrastive-rlhf reward\``,
        );
      }
    }
    const { model, bias } = await loadScoreModel(path);
    return new OpenRewardModel(path, model, bias, await loadTokenizer(path));
  }

  [Symbol.dispose](): void {
    this.model[Symbol.dispose]();
  }
}

export interface SaveRewardModelOptions {
  config: TransformerConfig;
  /** Scores are multiplied by this (in the head) and moved by `bias` (in `config.json`, which Hugging Face does not apply). */
  gain: number;
  bias: number;
  tokenizerFrom: string;
  overwrite?: boolean;
}

/** Writes a folder that `LlamaForSequenceClassification` loads: one label, read at the last token that is not padding. */
export async function saveRewardModel(model: ScoreModel, path: string, options: SaveRewardModelOptions): Promise<void> {
  const { config, gain, bias, tokenizerFrom, overwrite = false } = options;
  const layout = diskLayout(model.trunk);
  const { weight } = model.score;
  const parts = [...layout].flatMap(([parameter, list]) => list.map((part) => ({ ...part, parameter, factor: 1 })));
  parts.push({ name: "score.weight", shape: weight.shape, offset: 0, parameter: weight, factor: gain });
  const writer = await ModelFolderWriter.create(
    path,
    parts.map(({ name, shape }) => ({ name, shape, dtype: "F32" })),
    { overwrite },
  );
  try {
    const json = llamaConfigJson(trunkConfig(config), "float32");
    await writer.writeFile("config.json", {
      ...json,
      architectures: [
        config.family === "mistral" ? "MistralForSequenceClassification" : "LlamaForSequenceClassification",
      ],
      pad_token_id: paddingOf(config),
      id2label: { "0": "LABEL_0" },
      label2id: { LABEL_0: 0 },
      reward_bias: bias,
    });
    await writer.copyFiles(tokenizerFrom);
    for (const { name, shape, offset, parameter, factor } of parts) {
      const values = (await floats(parameter)).subarray(offset, offset + shape.reduce((a, b) => a * b, 1));
      await writer.write(name, encodeFloats("F32", factor === 1 ? values : values.map((value) => value * factor)));
    }
    await writer.finish();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

/** transformers reads the last token that is not padding: any id will do that no response ends with. */
function paddingOf({ padTokenId, bosTokenId, eosTokenIds }: TransformerConfig): number | null {
  return [padTokenId, bosTokenId].find((id) => id !== undefined && !eosTokenIds.includes(id)) ?? null;
}

const floats = async (parameter: Parameter): Promise<Float32Array> => Float32Array.from(await parameter.data());
