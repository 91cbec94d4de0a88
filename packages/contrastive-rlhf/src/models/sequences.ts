import {
  type CausalLM,
  gatherLast,
  linear,
  logSoftmax,
  multiply,
  reshape,
  type SharedRows,
  type Tensor,
  tensor,
} from "@trefoil/core";

/** A prompt and its response, as token ids. */
export interface Episode {
  prompt: Int32Array;
  response: Int32Array;
}

/** Episodes for one program. Each beginning that prompts share is computed once; of the last layer, n states are computed and read. */
export interface EpisodeBatch {
  /** i32 [1, rows] */
  tokens: Tensor;
  shared: SharedRows;
}

/** The states that predict the tokens of responses, episode by episode. */
export interface ResponseBatch extends EpisodeBatch {
  /** i32 [n, 1]: the response tokens; -1 behind the last. */
  targets: Tensor;
}

/** Sizes are rounded up by at most one part in `parts` (to a multiple of 8 at least): few programs serve all batches. */
function rounded(size: number, parts = 16): number {
  const quantum = Math.max(8, 2 ** Math.ceil(Math.log2(size)) / (2 * parts));
  return quantum * Math.ceil(size / quantum);
}

const largestVocabulary = 2 ** 24;

/** Numbers beginnings: the same tokens after the same beginning are one row. */
class Beginnings {
  readonly tokens: number[] = [];
  readonly #rows = new Map<number, number>();

  /** The row of `token` behind the beginning that ends at `row`; -1: at the start. */
  after(row: number, token: number): number {
    const key = (row + 1) * largestVocabulary + token;
    let next = this.#rows.get(key);
    if (next === undefined) {
      next = this.tokens.push(token) - 1;
      this.#rows.set(key, next);
    }
    return next;
  }

  /** A row of its own. */
  alone(token: number): number {
    return this.tokens.push(token) - 1;
  }
}

/**
 * @param read the positions of each episode that are read: from the first, up to the second
 * @param sequences as many as episodes, or more: the rest is empty
 */
function episodeBatch(
  episodes: readonly { prompt: Int32Array; rest: Int32Array; read: readonly [number, number] }[],
  sequences: number,
  reads: number,
): EpisodeBatch {
  const lengths = Int32Array.from({ length: sequences }, (_, i) =>
    i < episodes.length ? episodes[i]!.prompt.length + episodes[i]!.rest.length : 0,
  );
  const length = rounded(Math.max(...lengths));
  const places = (): Int32Array => new Int32Array(sequences * length).fill(-1);
  const [keys, queries, asking] = [places(), places(), places()];
  const [readRows, readPlaces] = [new Int32Array(reads).fill(-1), new Int32Array(reads).fill(-1)];
  const readPositions = new Int32Array(reads);
  const rows = new Beginnings();
  let read = 0;
  episodes.forEach(({ prompt, rest, read: [from, to] }, episode) => {
    let row = -1;
    for (let i = 0; i < lengths[episode]!; i++) {
      row = i < prompt.length ? rows.after(row, prompt[i]!) : rows.alone(rest[i - prompt.length]!);
      keys[episode * length + i] = row;
      const place = (episode + 1) * length - lengths[episode]! + i;
      queries[place] = row;
      if (i < from || i >= to) continue;
      asking[place] = read;
      readRows[read] = row;
      readPositions[read] = i;
      readPlaces[read++] = place;
    }
  });
  const tokens = new Int32Array(rounded(rows.tokens.length));
  tokens.set(rows.tokens);
  const standing = new Int32Array(tokens.length).fill(-1);
  const positions = new Int32Array(tokens.length);
  queries.forEach((row, place) => {
    if (row < 0) return;
    standing[row] = place;
    const episode = Math.floor(place / length);
    positions[row] = place - (episode + 1) * length + lengths[episode]!;
  });
  const shape = [sequences, length];
  return {
    tokens: tensor(tokens, { shape: [1, tokens.length] }),
    shared: {
      positions: tensor(positions, { shape: [1, positions.length] }),
      keys: tensor(keys, { shape }),
      lengths: tensor(lengths),
      queries: tensor(queries, { shape }),
      standing: tensor(standing),
      read: {
        rows: tensor(readRows),
        positions: tensor(readPositions),
        standing: tensor(readPlaces),
        queries: tensor(asking, { shape }),
      },
    },
  };
}

/** To read the probabilities of response tokens. The last token of a response predicts nothing, and is left out. */
export function responseBatch(episodes: readonly Episode[]): ResponseBatch {
  const all = episodes.flatMap(({ response }) => Array.from(response));
  // Only the last layer computes what is read.
  const targets = new Int32Array(rounded(all.length, 8)).fill(-1);
  targets.set(all);
  const parts = episodes.map(({ prompt, response }) => ({
    prompt,
    rest: response.subarray(0, -1),
    read: [prompt.length - 1, prompt.length + response.length - 1] as const,
  }));
  return {
    ...episodeBatch(parts, parts.length, targets.length),
    targets: tensor(targets, { shape: [targets.length, 1] }),
  };
}

/** To read the last token of each episode: `reads` states, of which those behind the episodes are nothing's. */
export function endBatch(episodes: readonly Episode[], reads = episodes.length): EpisodeBatch {
  const parts = episodes.map(({ prompt, response }) => {
    const length = prompt.length + response.length;
    return { prompt, rest: response, read: [length - 1, length] as const };
  });
  return episodeBatch(parts, reads, reads);
}

/** Of prompts and responses. */
export const tokensOf = (episodes: readonly Episode[]): number =>
  episodes.reduce((total, { prompt, response }) => total + prompt.length + response.length, 0);

/** One number per response token, episode by episode, with zeros behind: `[n]` as a ResponseBatch reads them. */
export function perToken(batch: ResponseBatch, values: readonly ArrayLike<number>[]): Tensor {
  const flat = new Float32Array(batch.targets.size);
  let at = 0;
  for (const row of values) {
    flat.set(row, at);
    at += row.length;
  }
  return tensor(flat);
}

/** The same the other way: `[n]` numbers cut into those of each episode. */
export function perEpisode(values: Float32Array, episodes: readonly Episode[]): Float32Array[] {
  let at = 0;
  return episodes.map(({ response }) => {
    at += response.length;
    return values.slice(at - response.length, at);
  });
}

/** The states that a batch reads, [n, hidden]. */
export function statesRead(model: CausalLM, { tokens, shared }: EpisodeBatch): Tensor {
  return reshape(model.hidden(tokens, { shared }).hidden, [-1, model.config.hiddenSize]);
}

/**
 * Log-probabilities of the response tokens under the distribution they are sampled from, [n]; 0 where there is no token.
 * @param states [n, hidden]
 * @returns also the logarithms of the whole distributions, [n, vocabulary]
 */
export function responseLogProbs(
  model: CausalLM,
  { targets }: Pick<ResponseBatch, "targets">,
  temperature: number,
  states: Tensor,
): { logProbs: Tensor; all: Tensor } {
  const all = logSoftmax(multiply(linear(states, model.headWeight), 1 / temperature));
  return { logProbs: reshape(gatherLast(all, targets), [targets.size]), all };
}
