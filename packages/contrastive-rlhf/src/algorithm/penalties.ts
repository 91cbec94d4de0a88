/** What a reward rule sees of a response. */
export interface ResponseFacts {
  /** Tokens, the ending one included. */
  length: number;
  /** Whether it ended by itself. */
  ended: boolean;
}

export interface PenaltyOptions {
  /** Responses without an end: the score is replaced by `value` (OpenAI), or `value` is subtracted (TRL). Default none. */
  unended?: { kind: "none" } | { kind: "replace" | "subtract"; value: number };
  /** Soft punishment of long responses (DAPO, arXiv 2503.14476, eq. 13): 0 up to `limit - buffer`, then linear to -1 at `limit`. */
  overlong?: { limit: number; buffer: number; weight: number };
}

/** 0 for lengths up to `limit - buffer`, -1 from `limit` on, a line between. */
export function softOverlong(length: number, limit: number, buffer: number): number {
  const start = limit - buffer;
  if (length <= start) return 0;
  return length > limit ? -1 : (start - length) / buffer;
}

/** A raw reward after the rules on ends and lengths: the same for rollouts and for baselines. */
export function penalise(raw: number, { length, ended }: ResponseFacts, options: PenaltyOptions = {}): number {
  const { unended = { kind: "none" }, overlong } = options;
  let score = raw;
  if (!ended && unended.kind === "replace") score = unended.value;
  if (!ended && unended.kind === "subtract") score -= unended.value;
  if (overlong) score += overlong.weight * softOverlong(length, overlong.limit, overlong.buffer);
  return score;
}
