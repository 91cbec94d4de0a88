import { TrefoilError } from "@trefoil/core";

type BenchErrorCode = "BENCH_RESULT" | "BENCH_HISTORY" | "BENCH_BUILD" | "BENCH_PEER_FAILED";

/** What a run cannot go on without, or a peer that cannot answer; the message says what to do. */
export class BenchError extends TrefoilError {
  declare readonly code: BenchErrorCode;

  constructor(code: BenchErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
