/** Mean seconds of one repetition in one round. */
export interface Timing {
  seconds: number;
  /** For compiled programs: the whole call from JavaScript, where `seconds` is the kernels alone. */
  callSeconds?: number;
  /** Where the work learns: how well it does by now, so that sides can be seen to learn alike. */
  score?: number;
}

/** One contender of a comparison: does the same work over and over when asked. */
export interface Side {
  readonly name: string;
  run(repetitions: number): Promise<Timing>;
}

/** What a repetition's amount is counted in, and how its rate is shown. */
export const units = {
  "GFLOP/s": 1e9,
  "GB/s": 1e9,
  "tokens/s": 1,
  "images/s": 1,
  "calls/s": 1,
} as const;
type Unit = keyof typeof units;

/** One product y = a(M x K) b(K x N) for the BLAS libraries. */
export interface SgemmTask {
  m: number;
  k: number;
  n: number;
  transposeA: boolean;
  transposeB: boolean;
}

/** Work for the PyTorch peer: `kernel` names a function of `peers/torch_*.py`, the rest are its arguments. */
export interface TorchTask {
  kernel: string;
  [argument: string]: unknown;
}

/** What a case brings when it is its turn. */
export interface Opened {
  side: Side;
  /** Our own other programs to compare with, such as the dense product beside the grouped one. */
  references?: readonly Side[];
  /** Numbers worth keeping: parameters, arena bytes. */
  details?: Readonly<Record<string, number>>;
  /** Frees what the case holds; runs also after a failure. */
  close?(): void | Promise<void>;
}

/** One row of the results: work of a known amount, done by us and by whoever else can. */
export interface Case {
  family: string;
  name: string;
  unit: Unit;
  /** Of one repetition: floating-point operations, bytes read and written, tokens. */
  amount: number;
  /** Which of the machine's limits its rate is a share of; `memory` only counts beyond the caches. */
  bound?: "compute" | "memory";
  /** Other than the run's. */
  threads?: number;
  /** Builds our side, on the default device. */
  open(): Promise<Opened>;
  torch?: TorchTask;
  sgemm?: SgemmTask;
}
