import type { z } from "zod";
import { childKeys, type Field, isJsonObject, type JsonObject, type JsonValue, selectVariant } from "./fields.js";
import { fieldsAt, flagName } from "./flags.js";
import { nearest } from "./nearest.js";
import type { Problem } from "./problem.js";
import { formatDefault, typeText } from "./type-text.js";

/** Keys that the schema does not have, wherever its shape is known; they are removed from `config`. */
export function takeUnknownKeys(field: Field, config: JsonValue | undefined, path: readonly string[] = []): Problem[] {
  const { shape } = field;
  if (shape.kind === "array" && Array.isArray(config)) {
    return config.flatMap((value, i) => takeUnknownKeys(shape.element, value, [...path, String(i)]));
  }
  if (!isJsonObject(config)) return [];
  if (shape.kind === "record") {
    return Object.entries(config).flatMap(([key, value]) => takeUnknownKeys(shape.value, value, [...path, key]));
  }
  let fields: ReadonlyMap<string, Field> | undefined;
  if (shape.kind === "object") fields = shape.fields;
  // Without a valid discriminator any key may be right: validation reports the discriminator alone.
  if (shape.kind === "variants") fields = selectVariant(shape, config)?.fields;
  if (fields === undefined) return [];

  const problems: Problem[] = [];
  for (const key of Object.keys(config)) {
    const child = fields.get(key);
    if (child !== undefined) {
      problems.push(...takeUnknownKeys(child, config[key], [...path, key]));
    } else if (shape.kind !== "object" || !shape.open) {
      problems.push({ path: [...path, key], problem: "unknown key", hint: suggestKey(key, fields, path) });
      delete config[key];
    }
  }
  return problems;
}

function suggestKey(key: string, fields: ReadonlyMap<string, Field>, path: readonly string[]): string {
  const closest = nearest(key, fields.keys());
  if (closest !== undefined) return `did you mean ${[...path, closest].join(".")}?`;
  for (const [group, { shape }] of fields) {
    if (childKeys(shape).includes(key)) return `did you mean ${[...path, group, key].join(".")}?`;
  }
  return `known keys: ${[...fields.keys()].join(", ")}`;
}

/** Turns zod's issues into problems with the value found, and a hint from the field's own description. */
export function explainIssues(root: Field, issues: readonly z.core.$ZodIssue[], config: JsonObject): Problem[] {
  return issues.map((issue) => {
    const path = issue.path.map(String);
    const fields = fieldsAt(root, path, config);
    const got = valueAt(config, path);
    const problem = issueText(issue, fields, got);
    return { path, problem, got, hint: hintFor(issue, fields, path, got) };
  });
}

function valueAt(config: JsonValue | undefined, path: readonly string[]): JsonValue | undefined {
  let value = config;
  for (const key of path) {
    if (Array.isArray(value)) value = value[Number(key)];
    else value = isJsonObject(value) && Object.hasOwn(value, key) ? value[key] : undefined;
  }
  return value;
}

function issueText(issue: z.core.$ZodIssue, fields: readonly Field[], got: JsonValue | undefined): string {
  const missing = got === undefined && issue.code !== "custom";
  if (missing) return "required, but not given";
  switch (issue.code) {
    case "invalid_type":
      return `must be ${withArticle(issue.expected === "int" ? "integer" : issue.expected)}`;
    case "too_small":
      return sizeText(issue.origin, issue.inclusive === false ? ">" : "≥", "at least", issue.minimum);
    case "too_big":
      return sizeText(issue.origin, issue.inclusive === false ? "<" : "≤", "at most", issue.maximum);
    case "not_multiple_of":
      return `must be a multiple of ${issue.divisor}`;
    case "invalid_value":
      return `must be ${issue.values.length > 1 ? "one of " : ""}${issue.values.map(String).join(", ")}`;
    case "invalid_union": {
      const choices = choicesOf(fields);
      if (choices.length > 0) return `must be ${choices.length > 1 ? "one of " : ""}${choices.join(", ")}`;
      return fields[0] === undefined ? "fits none of the accepted forms" : `must be ${typeText(fields[0])}`;
    }
    case "invalid_format":
      return issue.format === "regex" ? `must match ${issue.pattern}` : `must be a valid ${issue.format}`;
    case "invalid_key":
      return issue.issues[0]?.message ?? issue.message;
    case "unrecognized_keys":
      return `unknown keys ${issue.keys.join(", ")}`;
    default:
      return issue.message;
  }
}

function choicesOf(fields: readonly Field[]): string[] {
  const choices = fields.flatMap(({ shape }) => (shape.kind === "choice" ? shape.choices.map(String) : []));
  return [...new Set(choices)];
}

function withArticle(noun: string): string {
  if (noun === "record") return "an object";
  return `${/^[aeio]/.test(noun) ? "an" : "a"} ${noun}`;
}

function sizeText(origin: string, sign: string, words: string, bound: number | bigint): string {
  if (origin === "string")
    return bound === 1 && words === "at least" ? "must not be empty" : `must have ${words} ${bound} characters`;
  if (origin === "array") return `must have ${words} ${bound} ${bound === 1 ? "item" : "items"}`;
  return `must be ${sign} ${bound}`;
}

function hintFor(
  issue: z.core.$ZodIssue,
  fields: readonly Field[],
  path: readonly string[],
  got: JsonValue | undefined,
): string | undefined {
  const closest = typeof got === "string" ? nearest(got, choicesOf(fields)) : undefined;
  if (closest !== undefined) return `did you mean ${closest}?`;
  const field = fields[0];
  if (field === undefined || issue.code === "custom" || issue.code === "invalid_key") return undefined;
  const meaning = field.description?.replace(/\.$/, "");
  const details = [typeText(field), field.unit].filter((part) => part !== undefined).join(", ");
  const fallback = field.fallback === undefined ? "" : `; default ${formatDefault(field.fallback)}`;
  const flag = got === undefined && childKeys(field.shape).length === 0 ? `; give ${flagName(path)}` : "";
  return meaning === undefined ? `expects ${details}${fallback}${flag}` : `${meaning} (${details}${fallback})${flag}`;
}

/** Problems as text, one block each: path and problem, then the value found and its origin, then a hint. */
export function formatProblems(problems: readonly Problem[]): string {
  return problems
    .map(({ path, problem, got, origin, hint }) => {
      const lines = [`  ${path.join(".") || "configuration"}: ${problem}`];
      const source = origin === undefined ? "" : `from ${origin}`;
      const value = got === undefined ? "" : shorten(typeof got === "number" ? String(got) : JSON.stringify(got));
      if (value !== "" || source !== "") lines.push(`    got   ${[value, source].filter(Boolean).join(", ")}`);
      if (hint !== undefined) lines.push(`    hint  ${hint}`);
      return lines.join("\n");
    })
    .join("\n");
}

function shorten(text: string): string {
  return text.length <= 80 ? text : `${text.slice(0, 77)}…`;
}
