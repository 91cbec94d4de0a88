/** Pictures measured at a time. */
const together = 32;

/** The numbers from 0 to `count`, some at a time: the last batch may be a shorter one. */
export function* evaluationRows(count: number): Generator<number[]> {
  for (let at = 0; at < count; at += together)
    yield Array.from({ length: Math.min(together, count - at) }, (_, i) => at + i);
}
