import {
  childFields,
  childKeys,
  type Field,
  isJsonObject,
  isStructured,
  type JsonObject,
  type JsonValue,
  selectVariant,
} from "./fields.js";
import { nearest } from "./nearest.js";
import type { Problem } from "./problem.js";

/** A value given on the command line, not yet typed: `raw` holds one string for each repetition. */
export interface FlagValue {
  readonly path: readonly string[];
  readonly flag: string;
  readonly raw: string[];
}

export interface ParsedFlags {
  readonly values: readonly FlagValue[];
  readonly problems: readonly Problem[];
}

/** `learningRate` → `learning-rate`, `useMLP` → `use-mlp`. */
function kebabCase(key: string): string {
  return key
    .replace(/([a-z0-9])([A-Z])/g, "$1-$2")
    .replace(/([A-Z]+)([A-Z][a-z])/g, "$1-$2")
    .toLowerCase();
}

export function flagName(path: readonly string[]): string {
  return `--${path.map(kebabCase).join(".")}`;
}

/** Splits `argv` into flags of `root`. Unknown flags and stray arguments become problems; nothing throws. */
export function parseFlags(root: Field, argv: readonly string[]): ParsedFlags {
  const values = new Map<string, FlagValue>();
  const problems: Problem[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = longForm(root, argv[i] as string);
    // pnpm hands the `--` of `pnpm run x -- --flag` through.
    if (argument === "--") continue;
    if (!argument.startsWith("--")) {
      if (recordPositional(root, values, argument)) continue;
      const hint = `flags start with --: ${commonFlags(root)}`;
      problems.push({ path: [argument], problem: "unexpected argument", hint });
      continue;
    }
    const equals = argument.indexOf("=");
    const name = argument.slice(2, equals < 0 ? undefined : equals);
    const inline = equals < 0 ? undefined : argument.slice(equals + 1);
    const next = argv[i + 1];
    const target = resolveFlag(root, name);
    if (target === undefined) {
      const negated = inline === undefined && name.startsWith("no-") ? resolveFlag(root, name.slice(3)) : undefined;
      if (negated?.fields.every(isBoolean)) {
        record(values, negated.path, argument, "false");
        continue;
      }
      problems.push({ path: [`--${name}`], problem: "unknown flag", hint: suggestFlag(root, name) });
      if (inline === undefined && next !== undefined && !next.startsWith("--")) i++;
    } else if (inline !== undefined) {
      record(values, target.path, `--${name}`, inline);
    } else if (target.fields.every(isBoolean)) {
      const literal = next === "true" || next === "false" || next === "null";
      record(values, target.path, argument, literal ? next : "true");
      if (literal) i++;
    } else if (next === undefined || next.startsWith("--")) {
      problems.push({
        path: [argument],
        problem: "needs a value",
        hint: `write ${argument} VALUE or ${argument}=VALUE`,
      });
    } else {
      record(values, target.path, argument, next);
      i++;
    }
  }
  return { values: [...values.values()], problems };
}

/** `-o` as the flag that it stands for. */
function longForm(root: Field, argument: string): string {
  const key = /^-[a-zA-Z]$/.test(argument) && topLevel(root, ({ short }) => short === argument[1])?.[0];
  return key ? flagName([key]) : argument;
}

/** Gives an argument without a flag to the field that takes such. @returns whether one does, and has room */
function recordPositional(root: Field, values: Map<string, FlagValue>, argument: string): boolean {
  const [key, field] = topLevel(root, ({ positional }) => positional) ?? [];
  if (key === undefined || field === undefined || argument.startsWith("-")) return false;
  const isList = field.shape.kind === "array";
  if (!isList && values.has(JSON.stringify([key]))) return false;
  // As JSON, so that commas in it part nothing.
  record(values, [key], flagName([key]), isList ? JSON.stringify([argument]) : argument);
  return true;
}

const topLevel = (root: Field, fits: (field: Field) => boolean): [string, Field] | undefined =>
  root.shape.kind === "object" ? [...root.shape.fields].find(([, field]) => fits(field)) : undefined;

function record(values: Map<string, FlagValue>, path: readonly string[], flag: string, raw: string): void {
  const key = JSON.stringify(path);
  const existing = values.get(key);
  if (existing === undefined) values.set(key, { path, flag, raw: [raw] });
  else existing.raw.push(raw);
}

function isBoolean(field: Field): boolean {
  return field.shape.kind === "boolean";
}

function resolveFlag(root: Field, name: string): { path: string[]; fields: Field[] } | undefined {
  const path: string[] = [];
  let fields: Field[] = [root];
  for (const segment of name.split(".")) {
    const named = fields.flatMap((field) => childKeys(field.shape));
    const isRecord = fields.some((field) => field.shape.kind === "record");
    const key =
      named.find((candidate) => candidate === segment || kebabCase(candidate) === segment) ??
      (isRecord ? segment : undefined);
    if (key === undefined || key === "" || key === "__proto__") return undefined;
    fields = fields.flatMap((field) => childFields(field.shape, key));
    path.push(key);
  }
  return { path, fields };
}

/** Every flag that takes a value: the leaves of the tree. */
function allFlags(field: Field, path: readonly string[] = []): string[] {
  const keys = childKeys(field.shape);
  if (keys.length === 0) return path.length === 0 ? [] : [flagName(path)];
  const flags = keys.flatMap((key) =>
    childFields(field.shape, key).flatMap((child) => allFlags(child, [...path, key])),
  );
  return [...new Set(flags)];
}

function suggestFlag(root: Field, name: string): string {
  const flags = allFlags(root);
  const whole = nearest(`--${name}`, flags);
  if (whole !== undefined) return `did you mean ${whole}?`;
  // `--learning-rate` for `--train.learning-rate`: compare last segments only.
  const leaf = (flag: string) => flag.replace(/^--/, "").split(".").at(-1) as string;
  const closest = nearest(leaf(name), flags.map(leaf));
  const matches = flags.filter((flag) => leaf(flag) === closest);
  return matches.length > 0 ? `did you mean ${matches.slice(0, 3).join(" or ")}?` : "see --help for every flag";
}

function commonFlags(root: Field): string {
  const flags = allFlags(root);
  return flags.length > 3 ? `${flags.slice(0, 3).join(", ")}, …` : flags.join(", ") || "see --help";
}

/** Types the flags by the schema and writes them into `config`. Discriminators go first: they decide the types. */
export function applyFlags(root: Field, config: JsonObject, values: readonly FlagValue[]): void {
  const ordered = [...values].sort((a, b) => Number(isDiscriminator(root, b)) - Number(isDiscriminator(root, a)));
  for (const { path, raw } of ordered) {
    const value = coerce(fieldsAt(root, path, config), raw);
    let parent = config;
    for (const key of path.slice(0, -1)) {
      if (!isJsonObject(parent[key])) parent[key] = {};
      parent = parent[key] as JsonObject;
    }
    const last = path.at(-1) as string;
    const existing = parent[last];
    parent[last] = isJsonObject(existing) && isJsonObject(value) ? { ...existing, ...value } : value;
  }
}

function isDiscriminator(root: Field, value: FlagValue): boolean {
  const parents = fieldsAt(root, value.path.slice(0, -1), {});
  return parents.some(({ shape }) => shape.kind === "variants" && shape.discriminator === value.path.at(-1));
}

/** The fields at `path`, narrowed to the variants that `config` (or else a default) selects. */
export function fieldsAt(root: Field, path: readonly string[], config: JsonValue | undefined): Field[] {
  let fields: Field[] = [root];
  let value: JsonValue | undefined = config;
  for (const key of path) {
    fields = fields.flatMap(({ shape, fallback }) => {
      if (shape.kind === "array") return [shape.element];
      if (shape.kind === "tuple") return shape.elements[Number(key)] ?? [];
      if (shape.kind !== "variants") return childFields(shape, key);
      const given = isJsonObject(value) && value[shape.discriminator] !== undefined ? value : fallback;
      const variant = isJsonObject(given) ? selectVariant(shape, given) : undefined;
      return variant?.fields.get(key) ?? childFields(shape, key);
    });
    value = Array.isArray(value) ? value[Number(key)] : isJsonObject(value) ? value[key] : undefined;
  }
  return fields;
}

/** A text that no candidate accepts stays a string, so that validation reports it like any wrong value. */
function coerce(fields: readonly Field[], raw: readonly string[]): JsonValue {
  const last = raw.at(-1) as string;
  // Text accepts anything, so it is tried after every stricter type.
  const candidates = [...fields].sort((a, b) => Number(a.shape.kind === "string") - Number(b.shape.kind === "string"));
  for (const field of candidates) {
    const value = coerceField(field, raw, last);
    if (value !== undefined) return value;
  }
  return last;
}

function coerceField(field: Field, raw: readonly string[], last: string): JsonValue | undefined {
  if (field.nullable && last === "null") return null;
  const { shape } = field;
  switch (shape.kind) {
    case "string":
      return last;
    case "number":
      return parseNumber(last);
    case "boolean":
      return last === "true" ? true : last === "false" ? false : undefined;
    case "choice":
      return shape.choices.find((choice) => String(choice) === last);
    case "array":
      return raw.flatMap((text) => splitList(text, shape.element));
    case "tuple": {
      const json = parseJson(last);
      if (Array.isArray(json)) return json;
      return last.split(",").map((text, i) => coerce(shape.elements.slice(i, i + 1), [text.trim()]));
    }
    case "union":
      return coerce(shape.options, raw);
    case "json":
      return parseJson(last) ?? last;
    default: {
      const json = parseJson(last);
      return isJsonObject(json) ? json : undefined;
    }
  }
}

function splitList(text: string, element: Field): JsonValue[] {
  if (text.trim() === "") return [];
  if (text.trimStart().startsWith("[")) {
    const json = parseJson(text);
    if (Array.isArray(json)) return json;
  }
  if (isStructured(element) || text.trimStart().startsWith("{")) return [coerce([element], [text])];
  return text.split(",").map((part) => coerce([element], [part.trim()]));
}

/** Decimal numbers, with `_` between digits allowed: `3e-4`, `1_000_000`, `-0.5`. */
function parseNumber(text: string): number | undefined {
  const digits = text.replace(/(?<=\d)_(?=\d)/g, "");
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(digits) ? Number(digits) : undefined;
}

function parseJson(text: string): JsonValue | undefined {
  try {
    return JSON.parse(text) as JsonValue;
  } catch {
    return undefined;
  }
}
