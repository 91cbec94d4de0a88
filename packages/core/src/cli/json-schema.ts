import { z } from "zod";
import type { Command } from "./command.js";

type SchemaNode = { [key: string]: unknown };

/**
 * JSON Schema (draft 7, which YAML editors read) of a command's config file. Groups that may be left out, because all
 * their fields have defaults, are not required: the command line fills them in.
 */
export function jsonSchema(command: Pick<Command, "name" | "summary" | "schema">): SchemaNode {
  const schema = z.toJSONSchema(command.schema, {
    io: "input",
    target: "draft-7",
    unrepresentable: "any",
  }) as SchemaNode;
  relaxRequired(schema);
  return { ...schema, title: command.name, description: command.summary };
}

/** Returns whether an empty object satisfies `node`. */
function relaxRequired(node: SchemaNode): boolean {
  const properties = (node.properties ?? {}) as Record<string, SchemaNode>;
  const fillable = new Set<string>();
  for (const [key, child] of Object.entries(properties)) {
    if (relaxRequired(child) && child.type === "object" && child.properties !== undefined) fillable.add(key);
  }
  for (const key of ["oneOf", "anyOf", "allOf"]) {
    for (const option of (node[key] ?? []) as SchemaNode[]) relaxRequired(option);
  }
  for (const key of ["items", "additionalProperties"]) {
    const child = node[key];
    if (typeof child === "object" && child !== null && !Array.isArray(child)) relaxRequired(child as SchemaNode);
  }
  const required = ((node.required ?? []) as string[]).filter((key) => !fillable.has(key));
  if (required.length === 0) delete node.required;
  else node.required = required;
  return required.length === 0;
}
