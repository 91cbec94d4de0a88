import { readFile } from "node:fs/promises";
import { isScalar, LineCounter, parseDocument, visit } from "yaml";
import { UsageError } from "./errors.js";
import { isJsonObject, type JsonObject } from "./fields.js";

/** A config file: its values, and where each key stands (`mix.yaml:4`), by JSON path. */
export interface ConfigFile {
  readonly values: JsonObject;
  readonly origins: ReadonlyMap<string, string>;
}

/**
 * Reads a YAML (or JSON) config file.
 * @throws UsageError CONFIG_FILE when it cannot be read, is not YAML, or is not a mapping.
 */
export async function readConfigFile(file: string): Promise<ConfigFile> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new UsageError("CONFIG_FILE", `cannot read the config file ${file}; check --config`, { cause });
  }
  return parseConfig(text, file);
}

/** Parses YAML text. `name` stands for the file in messages. */
function parseConfig(text: string, name: string): ConfigFile {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, prettyErrors: true, resolveKnownTags: false });
  const problem = document.errors[0];
  if (problem !== undefined)
    throw new UsageError("CONFIG_FILE", `${name} is not valid YAML: ${problem.message.trim()}`);
  let values: unknown;
  try {
    values = document.toJS() ?? {};
  } catch (cause) {
    throw new UsageError("CONFIG_FILE", `${name} cannot be expanded; check its aliases`, { cause });
  }
  if (!isJsonObject(values)) throw new UsageError("CONFIG_FILE", `${name} must hold a mapping of keys to values`);

  const origins = new Map<string, string>();
  visit(document, {
    Pair(_, pair, ancestors) {
      const keys = [...ancestors, pair].flatMap((node) => {
        const key = (node as { key?: unknown }).key;
        return isScalar(key) ? [String(key.value)] : [];
      });
      const offset = isScalar(pair.key) ? pair.key.range?.[0] : undefined;
      if (offset !== undefined) origins.set(JSON.stringify(keys), `${name}:${lineCounter.linePos(offset).line}`);
    },
  });
  return { values, origins };
}
