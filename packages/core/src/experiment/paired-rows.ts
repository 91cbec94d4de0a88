/** Rows of two arms that have the same seed, in the order of `a`. */
export const pairedRows = <Row extends { seed: number }>(a: readonly Row[], b: readonly Row[]): [Row, Row][] =>
  a.flatMap((row) => b.filter(({ seed }) => seed === row.seed).map((other): [Row, Row] => [row, other]));
