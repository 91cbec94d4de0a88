import {
  type CausalLM,
  exp,
  gatherLast,
  logSoftmax,
  multiply,
  negate,
  reshape,
  sum,
  type Tensor,
  tensor,
} from "@trefoil/core";

/** A prompt and its response, as token ids. */
export interface Episode {
  prompt: Int32Array;
  response: Int32Array;
}

/** Episodes laid out for one program: B rows of S tokens, right-padded; responses as B * T positions. */
export interface SequenceBatch {
  /** i32 [B, S] */
  tokens: Tensor;
  /** i32 [B * T]: row of the hidden state that predicts each response token; -1 where there is none. */
  index: Tensor;
  /** i32 [B * T, 1]: the response tokens; -1 where there is none. */
  targets: Tensor;
  /** [B * T]: 1 for response tokens. */
  mask: Tensor;
}

/** Sizes of a SequenceBatch. */
export interface SequenceSizes {
  rows: number;
  /** S */
  sequence: number;
  /** T */
  response: number;
}

/** Sequences are padded to multiples of 8, long ones of 64, so that similar data share programs. */
const roundUp = (length: number): number => (length <= 64 ? Math.ceil(length / 8) * 8 : Math.ceil(length / 64) * 64);

/** The smallest sizes that hold all episodes. */
export function sizesFor(episodes: readonly Episode[], rows: number, maxPositions: number): SequenceSizes {
  const response = Math.max(...episodes.map((episode) => episode.response.length));
  const longest = Math.max(...episodes.map((episode) => episode.prompt.length + episode.response.length));
  return { rows, sequence: Math.min(roundUp(longest), maxPositions), response };
}

/** @param episodes `rows` of them, or fewer: the rest is empty */
export function sequenceBatch(
  episodes: readonly Episode[],
  { rows, sequence, response: width }: SequenceSizes,
): SequenceBatch {
  const tokens = new Int32Array(rows * sequence);
  const index = new Int32Array(rows * width).fill(-1);
  const targets = new Int32Array(rows * width).fill(-1);
  const mask = new Float32Array(rows * width);
  episodes.forEach(({ prompt, response }, row) => {
    tokens.set(prompt, row * sequence);
    tokens.set(response, row * sequence + prompt.length);
    response.forEach((token, t) => {
      index[row * width + t] = row * sequence + prompt.length - 1 + t;
      targets[row * width + t] = token;
      mask[row * width + t] = 1;
    });
  });
  return {
    tokens: tensor(tokens, { shape: [rows, sequence] }),
    index: tensor(index),
    targets: tensor(targets, { shape: [rows * width, 1] }),
    mask: tensor(mask),
  };
}

/** Episodes one behind the other in a single row of N tokens, without padding between them. */
export interface PackedBatch extends SequenceBatch {
  /** i32 [1, N]: where each token stands in its episode, and which episode that is. */
  positions: Tensor;
  segments: Tensor;
}

/** N is rounded up to a sixteenth of what it can be: few programs serve all lengths. */
const packedSteps = 16;

/**
 * The same without the padding, and without the last tokens of responses, after which nothing is predicted.
 * @param episodes `rows` of them, or fewer: the rest is empty
 */
export function packedBatch(
  episodes: readonly Episode[],
  { rows, sequence, response: width }: SequenceSizes,
): PackedBatch {
  const real = episodes.reduce((sum, { prompt, response }) => sum + prompt.length + response.length - 1, 0);
  const quantum = 16 * Math.ceil((rows * sequence) / packedSteps / 16);
  const total = quantum * Math.ceil(real / quantum);
  const [tokens, positions, segments] = [new Int32Array(total), new Int32Array(total), new Int32Array(total).fill(-1)];
  const index = new Int32Array(rows * width).fill(-1);
  const targets = new Int32Array(rows * width).fill(-1);
  const mask = new Float32Array(rows * width);
  let at = 0;
  episodes.forEach(({ prompt, response }, row) => {
    tokens.set(prompt, at);
    tokens.set(response.subarray(0, -1), at + prompt.length);
    const length = prompt.length + response.length - 1;
    for (let i = 0; i < length; i++) positions[at + i] = i;
    segments.fill(row, at, at + length);
    response.forEach((token, t) => {
      index[row * width + t] = at + prompt.length - 1 + t;
      targets[row * width + t] = token;
      mask[row * width + t] = 1;
    });
    at += length;
  });
  const row = (values: Int32Array): Tensor => tensor(values, { shape: [1, total] });
  return {
    tokens: row(tokens),
    positions: row(positions),
    segments: row(segments),
    index: tensor(index),
    targets: tensor(targets, { shape: [rows * width, 1] }),
    mask: tensor(mask),
  };
}

/** i32 [rows]: position of each episode's last token in rows * sequence; -1 for empty rows. */
export function lastTokenIndex(episodes: readonly Episode[], { rows, sequence }: SequenceSizes): Tensor {
  const index = new Int32Array(rows).fill(-1);
  episodes.forEach(({ prompt, response }, row) => {
    index[row] = row * sequence + prompt.length + response.length - 1;
  });
  return tensor(index);
}

/**
 * Log-probabilities of the response tokens under the distribution they are sampled from, and its entropy (not differentiated through
 * the caller's choice), both [B * T]; 0 log-probability where there is no token.
 */
export function responseLogProbs(
  model: CausalLM,
  { index, targets }: Pick<SequenceBatch, "index" | "targets">,
  temperature: number,
  hidden: Tensor,
): { logProbs: Tensor; entropy: Tensor } {
  const all = logSoftmax(multiply(model.logitsAt(hidden, index), 1 / temperature));
  const logProbs = reshape(gatherLast(all, targets), [index.size]);
  return { logProbs, entropy: negate(sum(multiply(exp(all), all), { axes: -1 })) };
}
