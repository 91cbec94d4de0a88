export interface Scale {
  /** Value → position. */
  (value: number): number;
  readonly ticks: readonly number[];
  /** Text of a tick, with as many digits as the distance of ticks needs. */
  readonly format: (tick: number) => string;
}

/** Linear scale from `domain` to `range` with about `count` round ticks. */
export function linearScale(domain: readonly [number, number], range: readonly [number, number], count: number): Scale {
  const [low, high] = spread(domain);
  const step = roundStep((high - low) / count);
  const ticks: number[] = [];
  // Multiples of the step, not sums: sums drift.
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step + 0);
  const position = (value: number) => range[0] + ((value - low) / (high - low)) * (range[1] - range[0]);
  return Object.assign(position, { ticks, format: (tick: number) => formatTick(tick, step) });
}

/** Base-10 logarithmic scale; `domain` must be positive. Ticks at decades, and between them where decades are few. */
export function logScale(domain: readonly [number, number], range: readonly [number, number], count: number): Scale {
  const [low, high] = domain[1] > domain[0] * (1 + 1e-9) ? domain : [domain[0] / 2, domain[1] * 2];
  const decades = Math.log10(high / low);
  const every = Math.max(1, Math.ceil(decades / count));
  const multiples = decades < 1 ? [1, 1.5, 2, 3, 4, 5, 7] : decades < 3 ? [1, 2, 5] : [1];
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += every) {
    for (const multiple of multiples) {
      const tick = multiple * 10 ** power;
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
    }
  }
  const position = (value: number) =>
    range[0] + (Math.log10(value / low) / Math.log10(high / low)) * (range[1] - range[0]);
  return Object.assign(position, { ticks, format: formatValue });
}

// Values that differ by rounding alone are drawn as equal; ticks between them could not be counted in doubles.
function spread([low, high]: readonly [number, number]): readonly [number, number] {
  const magnitude = Math.max(Math.abs(low), Math.abs(high));
  if (high - low > 1e-9 * magnitude) return [low, high];
  const margin = magnitude === 0 ? 1 : magnitude * 0.1;
  return [low - margin, high + margin];
}

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`. */
export function roundStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 2.5, 5].find((factor) => factor * power >= rough * (1 - 1e-9)) ?? 10);
}

function formatTick(tick: number, step: number): string {
  const magnitude = Math.abs(tick);
  if (magnitude >= 1e4 || (magnitude !== 0 && step < 1e-4)) return formatValue(tick);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const exact = Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) < 1e-9 ? decimals : decimals + 1;
  return tick.toLocaleString("en-US", { minimumFractionDigits: exact, maximumFractionDigits: exact });
}

/** Four significant digits: 2.345, 1,234, 12.3k, 4.5M, 3e-4. */
export function formatValue(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude >= 1e4) {
    const power = Math.min(5, Math.floor(Math.log10(magnitude) / 3 + 1e-12));
    return `${Number((value / 1000 ** power).toPrecision(4))}${["", "k", "M", "G", "T", "P"][power]}`;
  }
  if (magnitude !== 0 && magnitude < 1e-3) return Number(value.toPrecision(4)).toExponential();
  return Number(value.toPrecision(4)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

/** Smallest and largest finite value, or undefined when there is none. */
export function extent(values: Iterable<number>): [number, number] | undefined {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : undefined;
}
