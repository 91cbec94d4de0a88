// A transformer from ops, trained on characters and sampled from.
import {
  AdamW,
  attention,
  compile,
  crossEntropy,
  Embedding,
  gatherRows,
  gelu,
  gradients,
  InitialValues,
  iota,
  LayerNorm,
  Linear,
  Module,
  RandomGenerator,
  Sequential,
  split,
  type Tensor,
  tensor,
} from "@trefoil/core";

class Block extends Module {
  readonly attentionNorm: LayerNorm;
  readonly qkv: Linear;
  readonly out: Linear;
  readonly mlpNorm: LayerNorm;
  readonly mlp: Sequential;
  readonly heads: number;

  constructor(width: number, heads: number, initial: InitialValues) {
    super();
    this.attentionNorm = new LayerNorm(width);
    this.qkv = new Linear(width, 3 * width, { initial });
    this.out = new Linear(width, width, { initial });
    this.mlpNorm = new LayerNorm(width);
    this.mlp = new Sequential(
      new Linear(width, 4 * width, { initial }),
      gelu,
      new Linear(4 * width, width, { initial }),
    );
    this.heads = heads;
  }

  /** [batch, length, width] */
  forward(x: Tensor): Tensor {
    const [batch, length, width] = x.shape as [number, number, number];
    const [q, k, v] = split(this.qkv.forward(this.attentionNorm.forward(x)), [width, width, width]).map((part) =>
      part.reshape([batch, length, this.heads, width / this.heads]),
    ) as [Tensor, Tensor, Tensor];
    const mixed = attention(q, k, v, { causal: true }).reshape(x.shape);
    const y = x.add(this.out.forward(mixed));
    return y.add(this.mlp.forward(this.mlpNorm.forward(y)));
  }
}

class CharacterModel extends Module {
  readonly words: Embedding;
  readonly places: Embedding;
  readonly blocks: Block[];
  readonly norm: LayerNorm;
  readonly head: Linear;
  readonly context: number;

  constructor(characters: number, context: number, { width = 32, layers = 2, heads = 2, seed = 0 } = {}) {
    super();
    const initial = new InitialValues(seed);
    this.words = new Embedding(characters, width, { standardDeviation: 0.02, initial });
    this.places = new Embedding(context, width, { standardDeviation: 0.02, initial });
    this.blocks = Array.from({ length: layers }, () => new Block(width, heads, initial));
    this.norm = new LayerNorm(width);
    this.head = new Linear(width, characters, { weight: this.words.weight, bias: false });
    this.context = context;
  }

  /** i32 [batch, length] -> logits [batch * length, characters] */
  forward(tokens: Tensor): Tensor {
    const x = this.words.forward(tokens).add(this.places.forward(iota(tokens.shape[1]!)));
    const y = this.blocks.reduce((value, block) => block.forward(value), x);
    return this.head.forward(this.norm.forward(y)).reshape([tokens.size, -1]);
  }
}

/** Learns `text`, then goes on from `prompt`. */
export async function learnAndWrite(text: string, prompt: string, steps: number, length: number) {
  const characters = [...new Set(text)].sort();
  const idsOf = (words: string) => Int32Array.from(words, (character) => characters.indexOf(character));
  const ids = idsOf(text);
  const [batch, context] = [8, 32];
  const model = new CharacterModel(characters.length, context);
  const parameters = model.parameters();
  const optimizer = new AdamW(parameters, { learningRate: 3e-3 });

  const step = compile((tokens: Tensor, targets: Tensor) => {
    const { loss } = crossEntropy(model.forward(tokens), targets.reshape([-1]));
    optimizer.apply(gradients(loss, parameters));
    return loss;
  });
  const draw = new InitialValues(1);
  const rows = (starts: number[], by: number) =>
    tensor(Int32Array.from(starts.flatMap((at) => [...ids.subarray(at + by, at + by + context)])), {
      shape: [batch, context],
    });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) {
    const starts = Array.from({ length: batch }, () => Math.floor(draw.next() * (ids.length - context - 1)));
    losses.push(await (await step(rows(starts, 0), rows(starts, 1))).item());
  }

  // The window has one size, so that one program serves every length; `last` is data.
  const random = new RandomGenerator(2);
  const next = compile((window: Tensor, last: Tensor) =>
    random.sampleTokens(gatherRows(model.forward(window), last), { temperature: 0.5, topK: 4 }),
  );
  const written = [...idsOf(prompt)];
  while (written.length < prompt.length + length) {
    const recent = written.slice(-context);
    const window = new Int32Array(context);
    window.set(recent);
    const { token } = await next(tensor(window, { shape: [1, context] }), tensor(Int32Array.of(recent.length - 1)));
    written.push(await token.item());
  }
  return { losses, written: written.map((id) => characters[id]).join("") };
}
