import { AdamW, compile, createModel, defaultDevice, gradients, type Tensor, tensor } from "@trefoil/core";
import { PythonPeer } from "./python-peer.js";
import { ratio, type Spread, spread } from "./statistics.js";

/** Models by their rough number of parameters; a byte-sized vocabulary, so that the blocks are what is measured. */
export const sizes = {
  "1m": { hiddenSize: 128, intermediateSize: 352, layers: 4, heads: 4, keyValueHeads: 4, headDim: 32 },
  "10m": { hiddenSize: 320, intermediateSize: 864, layers: 8, heads: 5, keyValueHeads: 5, headDim: 64 },
  "60m": { hiddenSize: 640, intermediateSize: 1728, layers: 12, heads: 10, keyValueHeads: 10, headDim: 64 },
} as const;

export interface TrainStepOptions {
  size: keyof typeof sizes;
  /** 0: dense. */
  experts: number;
  batch: number;
  sequence: number;
  /** Alternations between us and the peer. */
  rounds: number;
  stepsPerRound: number;
  /** Python with torch and transformers; without it only we are measured. */
  python?: string | undefined;
  torchCompile: boolean;
}

export interface TrainStepResult {
  parameters: number;
  /** Tokens per second. */
  trefoil: Spread;
  torch?: Spread;
  /** Our tokens per second over the peer's, round by round. */
  speedup?: Spread;
}

/** Tokens per second of whole training steps (forward, backward, clipping, AdamW), alternating with PyTorch in one run. */
export async function measureTrainStep(
  options: TrainStepOptions,
  onRound: (round: number) => void,
): Promise<TrainStepResult> {
  const { batch, sequence, rounds, stepsPerRound, experts } = options;
  const config = {
    ...sizes[options.size],
    vocabSize: 512,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    tieWordEmbeddings: false,
    maxPositions: sequence,
    initializerRange: 0.02,
    ...(experts > 0 ? { experts, expertsPerToken: 2 } : {}),
  };
  const model = createModel(config);
  const parameters = model.parameters();
  const optimizer = new AdamW(parameters, { learningRate: 1e-3 });
  const step = compile((tokens: Tensor) => {
    const { loss } = model.loss(tokens, tokens);
    optimizer.apply(gradients(loss, parameters));
    return loss;
  });
  const tokens = tensor(
    Int32Array.from({ length: batch * sequence }, (_, i) => (i * 7) % 251),
    { shape: [batch, sequence] },
  );
  const ours = async (): Promise<number> => {
    const begun = performance.now();
    for (let i = 0; i < stepsPerRound; i++) await (await step(tokens)).item();
    return (performance.now() - begun) / 1000 / stepsPerRound;
  };

  using peer = options.python ? new PythonPeer(options.python, "torch_train.py") : undefined;
  const threads = defaultDevice().info.threads;
  await peer?.request({ config, batch, sequence, threads, compile: options.torchCompile });
  const theirs = async (): Promise<number | undefined> => {
    const answer = await peer?.request<{ seconds: number[] }>({ steps: stepsPerRound });
    return answer && answer.seconds.reduce((a, b) => a + b, 0) / stepsPerRound;
  };
  await ours();
  await theirs();
  const [our, their]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    onRound(round);
    our.push(await ours());
    const seconds = await theirs();
    if (seconds !== undefined) their.push(seconds);
  }
  const rate = (seconds: readonly number[]) => spread(seconds.map((each) => (batch * sequence) / each));
  const result: TrainStepResult = { parameters: model.parameterCount(), trefoil: rate(our) };
  return peer ? { ...result, torch: rate(their), speedup: ratio(our, their) } : result;
}
