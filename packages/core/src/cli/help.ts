import type { Style } from "../train/terminal-style.js";
import type { Command } from "./command.js";
import { childKeys, describeSchema, type Field, isJsonObject, isStructured, type JsonValue } from "./fields.js";
import { flagName } from "./flags.js";
import { formatDefault, placeholderText, typeText } from "./type-text.js";

export interface HelpOptions {
  /** Columns to fill. */
  readonly width: number;
  readonly style: Style;
}

interface Row {
  readonly flag: string;
  readonly meaning: string;
  readonly details: string;
}

interface Group {
  readonly title: string;
  readonly description: string | undefined;
  readonly rows: Row[];
}

const COMMON_ROWS: readonly Row[] = [
  {
    flag: "--config <file.yaml>",
    meaning: "Read values from a YAML file; flags win over it. May be repeated.",
    details: "",
  },
  { flag: "--print-config", meaning: "Print the resolved configuration as YAML and stop.", details: "" },
  { flag: "--json-schema", meaning: "Print the configuration's JSON Schema, for editors, and stop.", details: "" },
  {
    flag: "--device <name>",
    meaning: "Where to compute: cpu, cuda or cuda:1. Default: TREFOIL_DEVICE, else cpu.",
    details: "",
  },
  {
    flag: "--precision <name>",
    meaning:
      "How products are computed: f32, bf16-products (operands are rounded) or, on CUDA, bf16. Default: TREFOIL_PRECISION, else f32 on the CPU and bf16 on CUDA.",
    details: "",
  },
  { flag: "--quiet", meaning: "Show no progress, only warnings and errors.", details: "" },
  { flag: "-h, --help", meaning: "Show this help.", details: "" },
];

/** Help of one command: every field with its flag, type or choices, unit, default and meaning. */
export function commandHelp(program: string, command: Command, { width, style }: HelpOptions): string {
  const root = describeSchema(command.schema);
  const groups: Group[] = [];
  collectGroups(root, [], "Flags", undefined, groups);
  groups.push({ title: "Common flags", description: undefined, rows: [...COMMON_ROWS] });

  const lines = [`${style("bold", `${program} ${command.name}`)}: ${command.summary}`, ""];
  if (command.description !== undefined) lines.push(...wrap(command.description, width), "");
  const words = positionalWords(root);
  lines.push(style("bold", "Usage"), `  ${program} ${command.name} ${words}[--config <file.yaml>] [flags]`, "");
  const column = Math.min(38, Math.max(...groups.flatMap((group) => group.rows.map((row) => row.flag.length)))) + 4;
  for (const group of groups.filter((candidate) => candidate.rows.length > 0)) {
    const description = group.description === undefined ? "" : `: ${group.description}`;
    lines.push(style("bold", group.title) + description);
    for (const row of group.rows) lines.push(...renderRow(row, column, width, style));
    lines.push("");
  }
  if (command.examples !== undefined && command.examples.length > 0) {
    lines.push(style("bold", "Examples"), ...command.examples.map((example) => `  ${example}`), "");
  }
  return lines.join("\n");
}

/** What may stand in a command line without a flag: "[file…] ". */
function positionalWords({ shape }: Field): string {
  const fields = shape.kind === "object" ? [...shape.fields] : [];
  return fields
    .filter(([, field]) => field.positional)
    .map(([key, field]) => `[${field.placeholder ?? key}${field.shape.kind === "array" ? "…" : ""}] `)
    .join("");
}

/** Help of the whole program: its commands with their summaries. */
export function programHelp(
  program: { name: string; version: string; summary?: string | undefined },
  commands: readonly Command[],
  { width, style }: HelpOptions,
): string {
  const { name, version, summary } = program;
  const column = Math.max(...commands.map((command) => command.name.length)) + 4;
  return [
    `${style("bold", name)} ${version}${summary === undefined ? "" : `: ${summary}`}`,
    "",
    style("bold", "Usage"),
    `  ${name} <command> [--config <file.yaml>] [flags]`,
    "",
    style("bold", "Commands"),
    ...commands.flatMap((command) =>
      renderRow({ flag: command.name, meaning: command.summary, details: "" }, column, width, style),
    ),
    "",
    `Run ${style("cyan", `${name} help <command>`)} for every flag of a command.`,
    "",
  ].join("\n");
}

function collectGroups(
  field: Field,
  path: string[],
  title: string,
  inherited: JsonValue | undefined,
  groups: Group[],
): void {
  const { shape } = field;
  const group: Group = { title, description: path.length > 0 ? groupDescription(field) : undefined, rows: [] };
  const fallback = inherited ?? field.fallback;
  if (shape.kind === "object") {
    groups.push(group);
    collectFields(shape.fields, path, fallback, group, groups);
  } else if (shape.kind === "variants") {
    groups.push(group);
    const { discriminator } = shape;
    const values = shape.options.flatMap((option) => option.values);
    const described = shape.options.map((option) => option.fields.get(discriminator)?.description);
    const tag: Field = {
      ...field,
      shape: { kind: "choice", choices: values },
      description: described.find((text) => text !== undefined) ?? `Which kind of ${path.at(-1)}.`,
      fallback: undefined,
      unit: undefined,
      placeholder: undefined,
      positional: false,
      short: undefined,
    };
    const chosen = isJsonObject(fallback) ? fallback[discriminator] : undefined;
    group.rows.push(fieldRow(tag, [...path, discriminator], chosen));
    for (const option of shape.options) {
      const name = `${path.join(".")} with ${discriminator} = ${option.values.join(" or ")}`;
      const variant: Group = { title: name, description: undefined, rows: [] };
      groups.push(variant);
      const fields = new Map([...option.fields].filter(([key]) => key !== discriminator));
      const isChosen = chosen !== undefined && option.values.includes(String(chosen));
      collectFields(fields, path, isChosen ? fallback : undefined, variant, groups);
    }
  }
}

function collectFields(
  fields: ReadonlyMap<string, Field>,
  path: string[],
  fallback: JsonValue | undefined,
  group: Group,
  groups: Group[],
): void {
  for (const [key, child] of fields) {
    const childPath = [...path, key];
    const childFallback = isJsonObject(fallback) ? fallback[key] : undefined;
    const isGroup = child.shape.kind === "object" || child.shape.kind === "variants";
    if (isGroup && childKeys(child.shape).length > 0) {
      collectGroups(child, childPath, childPath.join("."), childFallback, groups);
    } else {
      group.rows.push(fieldRow(child, childPath, childFallback));
    }
  }
}

function groupDescription(field: Field): string | undefined {
  if (!field.optional) return field.description;
  return field.description === undefined ? "(optional)" : `${field.description} (optional)`;
}

function fieldRow(field: Field, path: readonly string[], inherited: JsonValue | undefined): Row {
  const name = flagName(path);
  const fallback = inherited ?? field.fallback;
  const flag = field.shape.kind === "boolean" ? name.replace(/^--/, "--[no-]") : flagWithValue(field, name);
  const details = field.shape.kind === "boolean" && !field.nullable ? [] : [typeText(field)];
  if (field.unit !== undefined) details.push(`unit ${field.unit}`);
  if (field.shape.kind === "array") details.push(isStructured(field.shape.element) ? "repeat" : "commas or repeat");
  if (fallback !== undefined) details.push(`default ${formatDefault(fallback)}`);
  else details.push(field.optional ? "optional" : "required");
  if (field.positional) details.push("also without the flag");
  const short = field.short === undefined ? "" : `-${field.short}, `;
  return { flag: short + flag, meaning: field.description ?? "", details: details.join(" · ") };
}

function flagWithValue(field: Field, name: string): string {
  return field.shape.kind === "record"
    ? `${name}.<name> <${field.placeholder ?? placeholderText(field.shape.value)}>`
    : `${name} <${placeholderText(field)}>`;
}

function renderRow(row: Row, column: number, width: number, style: Style): string[] {
  const indent = " ".repeat(column);
  const text = wrap(row.meaning, Math.max(width - column, 24));
  const details = row.details === "" ? [] : wrap(row.details, Math.max(width - column, 24));
  const body = [...text, ...details.map((line) => style("dim", line))].map((line) => indent + line);
  const flag = `  ${style("cyan", row.flag)}`;
  const first = body[0];
  // A flag that would touch the second column stands on a line of its own.
  if (first === undefined || row.flag.length + 4 > column) return [flag, ...body];
  return [flag + " ".repeat(column - row.flag.length - 2) + first.slice(column), ...body.slice(1)];
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/).filter(Boolean)) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  if (line !== "") lines.push(line);
  return lines;
}
