import { childKeys, type Field, isStructured, type JsonValue } from "./fields.js";

/** A field's type in words: "integer ≥ 1", "one of cosine, linear", "list of string". */
export function typeText(field: Field): string {
  const text = shapeText(field);
  return field.nullable ? `${text} or null` : text;
}

function shapeText({ shape }: Field): string {
  switch (shape.kind) {
    case "number": {
      const name = shape.integer ? "integer" : "number";
      return shape.bounds === "" ? name : `${name} ${shape.bounds}`;
    }
    case "string":
      return shape.bounds === "" ? "string" : `string, ${shape.bounds}`;
    case "choice":
      return `${shape.choices.length > 1 ? "one of " : ""}${shape.choices.map(String).join(", ")}`;
    case "array":
      return `list of ${typeText(shape.element).replace(/^one of /, "")}`;
    case "tuple":
      return `list (${shape.elements.map(typeText).join("; ")})`;
    case "record":
      return `object of name: ${typeText(shape.value)}`;
    case "object":
      return `object with ${childKeys(shape).join(", ")}`;
    case "variants":
      return `object with ${shape.discriminator} = ${shape.options.flatMap((option) => option.values).join(" or ")}`;
    case "union":
      return shape.options.map(typeText).join(" or ");
    case "boolean":
      return "boolean";
    case "json":
      return "JSON value";
  }
}

/** The word in angle brackets after a flag. */
export function placeholderText(field: Field): string {
  if (field.placeholder !== undefined)
    return field.shape.kind === "array" ? `${field.placeholder},…` : field.placeholder;
  const { shape } = field;
  switch (shape.kind) {
    case "number":
      return shape.integer ? "integer" : "number";
    case "choice": {
      const choices = shape.choices.map(String).join("|");
      return choices.length <= 24 ? choices : "choice";
    }
    case "array":
      return isStructured(shape.element) ? "JSON" : `${placeholderText(shape.element)},…`;
    case "tuple":
      return shape.elements.map(placeholderText).join(",");
    case "union":
      return shape.options.map(placeholderText).join("|");
    case "string":
      return "string";
    case "boolean":
      return "boolean";
    default:
      return "JSON";
  }
}

export function formatDefault(value: JsonValue): string {
  if (typeof value === "string") return value === "" ? '""' : value;
  if (Array.isArray(value) && value.length > 0 && value.every((item) => typeof item !== "object"))
    return value.join(",");
  const text = JSON.stringify(value);
  return text === "{}" || text === "[]" ? "empty" : text;
}
