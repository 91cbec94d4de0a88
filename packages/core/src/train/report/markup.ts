/** HTML that is safe to insert as it is. Only `html` makes it, so that nothing reaches a page unescaped. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type Interpolated = string | number | Markup | readonly Markup[] | undefined;

/** Template tag: literal parts are markup, interpolated text is escaped, markup is nested. Undefined is nothing. */
export function html(parts: TemplateStringsArray, ...values: readonly Interpolated[]): Markup {
  let text = parts[0] as string;
  for (const [i, value] of values.entries()) text += render(value) + (parts[i + 1] as string);
  return new Markup(text);
}

function render(value: Interpolated): string {
  if (value === undefined) return "";
  if (value instanceof Markup) return value.text;
  if (typeof value === "object") return value.map((item) => item.text).join("");
  return escapeHtml(String(value));
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Escapes for element content and quoted attributes; control characters that HTML forbids become U+FFFD. */
function escapeHtml(text: string): string {
  return text
    .replace(/[&<>"']/g, (character) => ENTITIES[character] as string)
    .replace(/(?![\t\n\r])\p{Cc}/gu, "\uFFFD");
}

/** JSON that a script element can hold: `</script>` and `<!--` cannot occur in it. */
export function jsonScript(id: string, value: unknown): Markup {
  const json = JSON.stringify(value).replace(/</g, "\\u003c");
  return html`<script type="application/json" id="${id}">${new Markup(json)}</script>`;
}
