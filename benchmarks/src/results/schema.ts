import { z } from "zod";

const spread = z.strictObject({
  median: z.number(),
  low: z.number().describe("lower quartile"),
  high: z.number().describe("upper quartile"),
  samples: z.number().int(),
});

const side = z.strictObject({
  name: z.string(),
  seconds: spread.describe("of one repetition; of our kernels alone where the case is a program"),
  callSeconds: spread.optional().describe("of one repetition as a whole call from JavaScript"),
  rate: spread.describe("in the case's unit"),
  score: z.number().optional().describe("of the last round, where the work learns: the reward of a policy"),
});

const measurement = z.strictObject({
  suite: z.enum(["kernels", "recipes"]),
  family: z.string(),
  name: z.string(),
  threads: z.number().int(),
  unit: z.enum(["GFLOP/s", "GB/s", "tokens/s", "images/s", "calls/s"]),
  amount: z.number().describe("of one repetition: floating-point operations, bytes read and written, tokens, calls"),
  shareOfPeak: z.number().nullable().describe("of the measured FMA peak or copy bandwidth with as many threads"),
  ours: side,
  others: z.array(side),
  ratios: z.record(z.string(), spread).describe("the other's time over ours, round by round: above 1 we are faster"),
  details: z.record(z.string(), z.number()),
});

const peer = z.discriminatedUnion("status", [
  z.strictObject({ name: z.string(), status: z.literal("present"), version: z.string() }),
  z.strictObject({ name: z.string(), status: z.literal("missing"), reason: z.string() }),
]);

const limits = z.strictObject({
  threads: z.number().int(),
  isa: z.string(),
  fmaGigaflops: spread.describe("GFLOP/s of fused multiply-adds in registers"),
  copyGigabytes: spread.describe("GB/s of memcpy beyond the caches, read and written bytes"),
});

/** One run of the benchmarks: what `results/*.json` hold. */
export const resultSchema = z.strictObject({
  version: z.literal(1),
  date: z.iso.datetime(),
  commit: z.string().nullable(),
  machine: z.strictObject({
    cpu: z.string(),
    cores: z.number().int(),
    threads: z.number().int().describe("used by us and by every peer"),
    isa: z.string().describe("of our kernels"),
    memoryBytes: z.number(),
    platform: z.string(),
    node: z.string(),
    limits: z.array(limits),
    loadBefore: z.number().describe("load average over a minute when the run began"),
  }),
  peers: z.array(peer),
  measurements: z.array(measurement),
  failures: z.array(z.strictObject({ work: z.string(), side: z.string(), reason: z.string() })),
});

export type Result = z.output<typeof resultSchema>;
export type Measurement = Result["measurements"][number];
export type MachineLimits = z.output<typeof limits>;
export type PeerRecord = z.output<typeof peer>;

/** `kernels/matmul/nn 512x512x512`: what a measurement is found by in another result. */
export const measurementKey = ({ suite, family, name, threads }: Measurement): string =>
  `${suite}/${family}/${name} @${threads}`;
