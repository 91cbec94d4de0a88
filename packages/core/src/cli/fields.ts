import type { z } from "zod";

declare module "zod" {
  interface GlobalMeta {
    /** Unit of a number, shown by `--help` and kept in the JSON Schema: "steps", "tokens", "s". */
    unit?: string | undefined;
    /** Word that stands for the value in `--help`: "folder", "file". */
    placeholder?: string | undefined;
    /** Of one top-level field: arguments without a flag are its values. */
    positional?: boolean | undefined;
    /** Letter that stands for the flag of a top-level field: "o" for `-o`. */
    short?: string | undefined;
  }
}

/** A JSON value: what a config file or a flag can hold. */
export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

export type Shape =
  | { kind: "object"; fields: ReadonlyMap<string, Field>; open: boolean }
  | { kind: "variants"; discriminator: string; options: readonly Variant[] }
  | { kind: "union"; options: readonly Field[] }
  | { kind: "array"; element: Field }
  | { kind: "tuple"; elements: readonly Field[] }
  | { kind: "record"; value: Field }
  | { kind: "number"; integer: boolean; bounds: string }
  | { kind: "string"; bounds: string }
  | { kind: "boolean" }
  | { kind: "choice"; choices: readonly (string | number | boolean | null)[] }
  | { kind: "json" };

/** One option of a discriminated union: the discriminator values that select it, and its fields. */
export interface Variant {
  readonly values: readonly string[];
  readonly fields: ReadonlyMap<string, Field>;
}

/** What the command line needs to know of one zod schema. */
export interface Field {
  readonly shape: Shape;
  readonly optional: boolean;
  readonly nullable: boolean;
  /** A default in the schema (`.default` or `.prefault`), as the config file would state it. */
  readonly fallback: JsonValue | undefined;
  readonly description: string | undefined;
  readonly unit: string | undefined;
  readonly placeholder: string | undefined;
  readonly positional: boolean;
  readonly short: string | undefined;
}

// What is read of zod's definition objects; https://zod.dev/library-authors describes `_zod.def`.
interface Definition {
  readonly type: string;
  readonly innerType?: Node;
  readonly in?: Node;
  readonly out?: Node;
  readonly shape?: Readonly<Record<string, Node>>;
  readonly catchall?: Node;
  readonly options?: readonly Node[];
  readonly discriminator?: string;
  readonly element?: Node;
  readonly items?: readonly Node[];
  readonly valueType?: Node;
  readonly values?: readonly (string | number | boolean | null)[];
  readonly entries?: Readonly<Record<string, string | number>>;
  readonly defaultValue?: unknown;
  readonly format?: string;
  readonly checks?: readonly { readonly _zod: { readonly def: Check } }[];
}
interface Check {
  readonly check: string;
  readonly value?: number;
  readonly inclusive?: boolean;
  readonly format?: string;
  readonly minimum?: number;
  readonly maximum?: number;
}
interface Node {
  readonly _zod: { readonly def: Definition };
  meta?():
    | { description?: string; unit?: string; placeholder?: string; positional?: boolean; short?: string }
    | undefined;
}

/** Reads a zod schema into a field tree. Wrappers (optional, default, readonly, pipes) are seen through. */
export function describeSchema(schema: z.core.$ZodType): Field {
  return describeNode(schema as unknown as Node);
}

function describeNode(node: Node): Field {
  let current = node;
  let optional = false;
  let nullable = false;
  let fallback: JsonValue | undefined;
  let description: string | undefined;
  let unit: string | undefined;
  let placeholder: string | undefined;
  let positional = false;
  let short: string | undefined;
  for (;;) {
    const meta = current.meta?.();
    description ??= meta?.description;
    unit ??= meta?.unit;
    placeholder ??= meta?.placeholder;
    positional ||= meta?.positional === true;
    short ??= meta?.short;
    const inner = unwrap(current._zod.def);
    if (inner === undefined) {
      const shape = describeShape(current._zod.def);
      return { shape, optional, nullable, fallback, description, unit, placeholder, positional, short };
    }
    const { type, defaultValue } = current._zod.def;
    if (type === "optional") optional = true;
    if (type === "nullable") nullable = true;
    if (type === "nonoptional") optional = false;
    if (type === "default" || type === "prefault") fallback ??= defaultValue as JsonValue;
    current = inner;
  }
}

function unwrap(definition: Definition): Node | undefined {
  // A pipe is described by what it reads; a preprocess step reads anything, so by what it feeds.
  if (definition.type === "pipe") return definition.in?._zod.def.type === "transform" ? definition.out : definition.in;
  const wrappers = ["optional", "nullable", "default", "prefault", "readonly", "catch", "nonoptional", "success"];
  return wrappers.includes(definition.type) ? definition.innerType : undefined;
}

function describeShape(definition: Definition): Shape {
  switch (definition.type) {
    case "object":
      return { kind: "object", fields: describeFields(definition), open: isOpen(definition) };
    case "union":
      return definition.discriminator === undefined
        ? { kind: "union", options: (definition.options ?? []).map(describeNode) }
        : describeVariants(definition, definition.discriminator);
    case "array":
      return { kind: "array", element: describeNode(definition.element as Node) };
    case "tuple":
      return { kind: "tuple", elements: (definition.items ?? []).map(describeNode) };
    case "record":
      return { kind: "record", value: describeNode(definition.valueType as Node) };
    case "number":
      return { kind: "number", integer: isInteger(definition), bounds: numberBounds(definition) };
    case "string":
      return { kind: "string", bounds: stringBounds(definition) };
    case "boolean":
      return { kind: "boolean" };
    case "enum":
      return { kind: "choice", choices: Object.values(definition.entries ?? {}) };
    case "literal":
      return { kind: "choice", choices: definition.values ?? [] };
    case "null":
      return { kind: "choice", choices: [null] };
    default:
      return { kind: "json" };
  }
}

function describeFields(definition: Definition): ReadonlyMap<string, Field> {
  return new Map(Object.entries(definition.shape ?? {}).map(([key, node]) => [key, describeNode(node)]));
}

function isOpen(definition: Definition): boolean {
  return definition.catchall !== undefined && definition.catchall._zod.def.type !== "never";
}

function describeVariants(definition: Definition, discriminator: string): Shape {
  const options: Variant[] = [];
  for (const option of definition.options ?? []) {
    const { shape } = describeNode(option);
    if (shape.kind === "variants") {
      options.push(...shape.options);
    } else if (shape.kind === "object") {
      const tag = shape.fields.get(discriminator)?.shape;
      options.push({ values: tag?.kind === "choice" ? tag.choices.map(String) : [], fields: shape.fields });
    }
  }
  return { kind: "variants", discriminator, options };
}

function checksOf(definition: Definition): Check[] {
  return (definition.checks ?? []).map((check) => check._zod.def);
}

function isInteger(definition: Definition): boolean {
  const formats = [definition.format, ...checksOf(definition).map((check) => check.format)];
  return formats.some((format) => format !== undefined && /int/.test(format));
}

function numberBounds(definition: Definition): string {
  const parts: string[] = [];
  for (const check of checksOf(definition)) {
    if (check.check === "greater_than") parts.push(`${check.inclusive ? "≥" : ">"} ${check.value}`);
    if (check.check === "less_than") parts.push(`${check.inclusive ? "≤" : "<"} ${check.value}`);
    if (check.check === "multiple_of") parts.push(`multiple of ${check.value}`);
  }
  return parts.join(", ");
}

function stringBounds(definition: Definition): string {
  const parts: string[] = [];
  for (const check of checksOf(definition)) {
    if (check.check === "min_length")
      parts.push(check.minimum === 1 ? "not empty" : `at least ${check.minimum} characters`);
    if (check.check === "max_length") parts.push(`at most ${check.maximum} characters`);
  }
  const format = definition.format ?? checksOf(definition).find((check) => check.check === "string_format")?.format;
  if (format !== undefined && format !== "regex") parts.push(format);
  return parts.join(", ");
}

/** The fields that a key of this shape may name, over every variant. Several variants may define one key. */
export function childFields(shape: Shape, key: string): Field[] {
  switch (shape.kind) {
    case "object": {
      const field = shape.fields.get(key);
      return field === undefined ? [] : [field];
    }
    case "variants":
      return shape.options.flatMap((option) => option.fields.get(key) ?? []);
    case "union":
      return shape.options.flatMap((option) => childFields(option.shape, key));
    case "record":
      return [shape.value];
    default:
      return [];
  }
}

/** Every key that this shape names, in order, without repetition. Empty for records: any key will do. */
export function childKeys(shape: Shape): string[] {
  switch (shape.kind) {
    case "object":
      return [...shape.fields.keys()];
    case "variants":
      return [...new Set(shape.options.flatMap((option) => [...option.fields.keys()]))];
    case "union":
      return [...new Set(shape.options.flatMap((option) => childKeys(option.shape)))];
    default:
      return [];
  }
}

/** The variant that `value` selects, or undefined when its discriminator is absent or unknown. */
export function selectVariant(shape: Shape & { kind: "variants" }, value: JsonObject): Variant | undefined {
  const tag = value[shape.discriminator];
  return tag === undefined ? undefined : shape.options.find((option) => option.values.includes(String(tag)));
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** True of values that the command line takes as JSON, not as plain text. */
export function isStructured({ shape }: Field): boolean {
  return ["object", "variants", "record", "array", "tuple", "json"].includes(shape.kind);
}
