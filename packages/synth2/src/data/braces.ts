import { SynthError } from "../errors.js";

const mostPaths = 100_000;

/**
 * Paths of a brace pattern: `shard-{00000..00010}.tar` keeps the zeros, `{a,b}.tar` lists; several groups multiply.
 * @throws SynthError `SYNTH_OPTIONS` when a range is not one, or there would be more than 100,000 paths
 */
export function expandBraces(pattern: string): string[] {
  const group = /\{([^{}]*)\}/.exec(pattern);
  if (!group) return [pattern];
  const [whole, inside = ""] = group;
  const before = pattern.slice(0, group.index);
  const rest = expandBraces(pattern.slice(group.index + whole.length));
  const choices = choicesOf(inside, pattern);
  if (choices.length * rest.length > mostPaths) throw tooMany(pattern);
  return choices.flatMap((choice) => rest.map((tail) => `${before}${choice}${tail}`));
}

function choicesOf(inside: string, pattern: string): string[] {
  if (!inside.includes("..")) return inside.split(",");
  const [, from, to] = /^(\d+)\.\.(\d+)$/.exec(inside) ?? [];
  if (from === undefined || to === undefined || Number(from) > Number(to)) {
    throw new SynthError("SYNTH_OPTIONS", `{${inside}} in ${pattern} is not a range: write {00000..00010}`);
  }
  if (Number(to) - Number(from) >= mostPaths) throw tooMany(pattern);
  return Array.from({ length: Number(to) - Number(from) + 1 }, (_, i) =>
    String(Number(from) + i).padStart(from.length, "0"),
  );
}

const tooMany = (pattern: string): SynthError =>
  new SynthError("SYNTH_OPTIONS", `${pattern} stands for more than ${mostPaths} paths: name fewer shards at a time`);
