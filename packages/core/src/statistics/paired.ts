const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Φ⁻¹(0.975) */
const normal975 = 1.959963984540054;

/** Wilson's 95 % interval of a proportion; `successes` may be half-counts. */
export function wilsonInterval(successes: number, trials: number, z = normal975): [number, number] {
  const rate = successes / trials;
  const denominator = 1 + (z * z) / trials;
  const centre = (rate + (z * z) / (2 * trials)) / denominator;
  const half = (z * Math.sqrt((rate * (1 - rate)) / trials + (z * z) / (4 * trials * trials))) / denominator;
  return [centre - half, centre + half];
}

export interface WinTieLose {
  win: number;
  tie: number;
  lose: number;
  /** Wins and half of the ties, over all. */
  winRate: number;
  /** Wilson's 95 % interval of the win rate; wider where outcomes of one prompt are alike. */
  interval: [number, number];
  /** (win - lose) over all: the paper's Δ. */
  delta: number;
}

/** Counts of `a` against `b`, pair by pair. */
export function winTieLose(a: readonly number[], b: readonly number[]): WinTieLose {
  const win = a.filter((value, i) => value > b[i]!).length;
  const lose = a.filter((value, i) => value < b[i]!).length;
  return fromCounts(win, a.length - win - lose, lose);
}

/** @param effect `designEffect` of the outcomes, where several belong to one prompt: the interval is that of so many times fewer */
export function fromCounts(win: number, tie: number, lose: number, effect = 1): WinTieLose {
  const total = win + tie + lose;
  const wins = win + tie / 2;
  const interval: [number, number] = total > 0 ? wilsonInterval(wins / effect, total / effect) : [0, 1];
  return {
    win,
    tie,
    lose,
    winRate: total > 0 ? wins / total : 0.5,
    interval,
    delta: total > 0 ? (win - lose) / total : 0,
  };
}

/**
 * Variance of the mean of values that come in groups, over what it would be if all were independent (Kish's design effect); at least 1.
 * @param groups the group of each value
 */
export function designEffect(values: readonly number[], groups: readonly number[]): number {
  const [n, centre] = [values.length, mean(values)];
  const sums = new Map<number, number>();
  let squares = 0;
  for (const [i, value] of values.entries()) {
    sums.set(groups[i]!, (sums.get(groups[i]!) ?? 0) + value - centre);
    squares += (value - centre) ** 2;
  }
  if (sums.size < 2 || squares === 0) return 1;
  const grouped = [...sums.values()].reduce((sum, each) => sum + each * each, 0) * (sums.size / (sums.size - 1));
  return Math.max(1, grouped / (squares * (n / (n - 1))));
}

/** log Γ(x), x > 0 (Lanczos, g = 7, 9 terms; about 15 digits). */
function logGamma(x: number): number {
  const c = [
    676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
    -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  const series = c.reduce((sum, value, i) => sum + value / (x + i), 0.99999999999980993);
  const t = x + 6.5;
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(series);
}

/** Regularised incomplete beta function I_x(a, b) by its continued fraction (Lentz). */
function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
  const tiny = 1e-300;
  let c = 1;
  let d = 1 / Math.max(tiny, 1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m < 500; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / (1 + even * d || tiny);
    c = 1 + even / c || tiny;
    fraction *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + odd * d || tiny);
    c = 1 + odd / c || tiny;
    const factor = d * c;
    fraction *= factor;
    if (Math.abs(factor - 1) < 1e-15) break;
  }
  return front * fraction;
}

/** Two-sided p of Student's t. */
export const studentP = (t: number, degrees: number): number =>
  incompleteBeta(degrees / (degrees + t * t), degrees / 2, 0.5);

/** t with two-sided p = 1 - confidence. */
function studentQuantile(confidence: number, degrees: number): number {
  let [low, high] = [0, 1e6];
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2;
    if (studentP(middle, degrees) > 1 - confidence) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

export interface PairedTest {
  /** How many differences. */
  count: number;
  mean: number;
  standardDeviation: number;
  t: number;
  /** 95 % interval of the mean. */
  interval: [number, number];
  p: number;
}

/** Student's test of paired differences against 0; needs two or more. */
export function pairedTest(differences: readonly number[]): PairedTest {
  const n = differences.length;
  const centre = mean(differences);
  const deviation = Math.sqrt(differences.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (n - 1));
  const error = deviation / Math.sqrt(n);
  const half = studentQuantile(0.95, n - 1) * error;
  const t = centre / error;
  return {
    count: n,
    mean: centre,
    standardDeviation: deviation,
    t,
    interval: [centre - half, centre + half],
    p: studentP(t, n - 1),
  };
}

/** Exact two-sided p of the sign-flip permutation test of paired differences; up to 24 of them. */
export function signFlipP(differences: readonly number[]): number {
  const n = differences.length;
  if (n > 24) throw new RangeError(`${n} differences have too many sign flips to count: give 24 or fewer`);
  const observed = Math.abs(differences.reduce((sum, value) => sum + value, 0));
  // Sums that are equal on paper differ in the last bits.
  const tolerance = 1e-12 * differences.reduce((sum, value) => sum + Math.abs(value), 0);
  let extreme = 0;
  for (let signs = 0; signs < 2 ** n; signs++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += (signs >>> i) & 1 ? differences[i]! : -differences[i]!;
    if (Math.abs(sum) >= observed - tolerance) extreme++;
  }
  return extreme / 2 ** n;
}

/** Two-sided exact sign test of `positive` out of `n` differences that are not 0. */
export function signTestP(positive: number, n: number): number {
  const from = Math.max(positive, n - positive);
  let tail = 0;
  for (let k = from; k <= n; k++)
    tail += Math.exp(logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1) - n * Math.LN2);
  return Math.min(1, 2 * tail);
}

/** Holm's step-down adjustment of p-values, in the order given. */
export function holm(ps: readonly number[]): number[] {
  const order = ps.map((_, i) => i).sort((a, b) => ps[a]! - ps[b]!);
  const adjusted = new Array<number>(ps.length);
  let floor = 0;
  order.forEach((index, rank) => {
    floor = Math.max(floor, Math.min(1, (ps.length - rank) * ps[index]!));
    adjusted[index] = floor;
  });
  return adjusted;
}
