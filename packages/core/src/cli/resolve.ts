import type { z } from "zod";
import type { Command, ConfigSchema } from "./command.js";
import { readConfigFile } from "./config-file.js";
import { UsageError } from "./errors.js";
import { describeSchema, type Field, isJsonObject, type JsonObject, type JsonValue, selectVariant } from "./fields.js";
import { applyFlags, parseFlags } from "./flags.js";
import type { Problem } from "./problem.js";
import { explainIssues, formatProblems, takeUnknownKeys } from "./problems.js";

export interface ConfigSources {
  /** Values set in code: the weakest source. */
  readonly values?: JsonObject;
  /** YAML files; a later one wins over an earlier one. */
  readonly files?: readonly string[];
  /** Command-line arguments after the command's name; they win over files. */
  readonly flags?: readonly string[];
}

/**
 * Merges values, files and flags, and validates the result against the command's schema.
 * @throws UsageError CONFIG_INVALID listing every problem with its path, value, origin and a hint.
 */
export async function resolveConfig<Schema extends ConfigSchema>(
  command: Pick<Command<Schema>, "name" | "schema">,
  sources: ConfigSources,
): Promise<z.output<Schema>> {
  const root = describeSchema(command.schema);
  const origins = new Map<string, string>();
  let config: JsonObject = structuredClone(sources.values ?? {});
  for (const name of sources.files ?? []) {
    const file = await readConfigFile(name);
    config = mergeValues(root, config, file.values) as JsonObject;
    for (const [path, origin] of file.origins) origins.set(path, origin);
  }

  const flags = parseFlags(root, sources.flags ?? []);
  applyFlags(root, config, flags.values);
  for (const { path, flag } of flags.values) origins.set(JSON.stringify(path), flag);

  const unknown = takeUnknownKeys(root, config);
  const completed = completeGroups(root, config) as JsonObject;
  const parsed = command.schema.safeParse(completed);
  const invalid = parsed.success ? [] : explainIssues(root, parsed.error.issues, completed);
  const problems = [...flags.problems, ...[...unknown, ...invalid].map((problem) => withOrigin(problem, origins))];
  if (problems.length > 0 || !parsed.success) {
    const count = problems.length === 1 ? "1 problem" : `${problems.length} problems`;
    throw new UsageError(
      "CONFIG_INVALID",
      `${count} in the configuration of ${command.name}\n\n${formatProblems(problems)}`,
    );
  }
  return parsed.data as z.output<Schema>;
}

function withOrigin(problem: Problem, origins: ReadonlyMap<string, string>): Problem {
  if (problem.got === undefined && problem.problem !== "unknown key") return problem;
  for (let length = problem.path.length; length > 0; length--) {
    const origin = origins.get(JSON.stringify(problem.path.slice(0, length)));
    if (origin !== undefined) return { ...problem, origin };
  }
  return problem;
}

/** `over` wins. Objects and records merge by key; a variant with another discriminator replaces the old one. */
function mergeValues(field: Field, base: JsonValue | undefined, over: JsonValue): JsonValue {
  if (!isJsonObject(base) || !isJsonObject(over)) return over;
  const { shape } = field;
  if (shape.kind === "union" || shape.kind === "json") return over;
  if (shape.kind === "variants") {
    const tag = over[shape.discriminator];
    if (tag !== undefined && tag !== base[shape.discriminator]) return over;
  }
  const merged: JsonObject = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const child = fieldOf(field, merged, key);
    merged[key] = child === undefined ? value : mergeValues(child, merged[key], value);
  }
  return merged;
}

function fieldOf({ shape }: Field, value: JsonObject, key: string): Field | undefined {
  if (shape.kind === "object") return shape.fields.get(key);
  if (shape.kind === "variants") return selectVariant(shape, value)?.fields.get(key);
  return shape.kind === "record" ? shape.value : undefined;
}

/**
 * Fills in groups, so that a group whose fields all have defaults may be left out, and so that setting one field of a
 * group keeps the group's default for its siblings.
 */
function completeGroups(field: Field, given: JsonValue | undefined): JsonValue | undefined {
  const { shape, fallback } = field;
  let value = given;
  if (shape.kind === "object" || shape.kind === "variants") {
    if (value === undefined) value = fallback ?? (field.optional || shape.kind === "variants" ? undefined : {});
    else if (isJsonObject(fallback)) value = mergeValues(field, fallback, value);
    if (!isJsonObject(value)) return value;
    const fields = shape.kind === "object" ? shape.fields : selectVariant(shape, value)?.fields;
    const completed: JsonObject = { ...value };
    for (const [key, child] of fields ?? []) {
      const childValue = completeGroups(child, value[key]);
      if (childValue !== undefined) completed[key] = childValue;
    }
    return completed;
  }
  if (shape.kind === "array" && Array.isArray(value)) {
    return value.map((element) => completeGroups(shape.element, element) as JsonValue);
  }
  if (shape.kind === "record" && isJsonObject(value)) {
    const entries = Object.entries(value).map(([key, element]) => [
      key,
      completeGroups(shape.value, element) as JsonValue,
    ]);
    return Object.fromEntries(entries) as JsonObject;
  }
  return value;
}
