import { RowProblem } from "./json-lines.js";

export interface ChatMessage {
  role: string;
  content: string;
}

/** @throws RowProblem unless `value` is a list of messages with role and content */
export function parseMessages(value: unknown, field: string): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0)
    throw new RowProblem(`"${field}" must be a string or a list of chat messages`);
  return value.map((message: unknown, i) => {
    const { role, content } = (typeof message === "object" && message !== null ? message : {}) as Record<
      string,
      unknown
    >;
    if (typeof role !== "string" || typeof content !== "string")
      throw new RowProblem(`"${field}"[${i}] needs a role and a content, both strings`);
    return { role, content };
  });
}
