const binaryOperators = ["||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%"] as const;
type BinaryOperator = (typeof binaryOperators)[number];

export type Expression =
  | { kind: "integer"; value: number }
  | { kind: "variable"; name: string }
  | { kind: "list"; items: Expression[] }
  | { kind: "index"; list: Expression; index: Expression }
  | { kind: "unary"; operator: "-" | "!"; operand: Expression }
  | { kind: "binary"; operator: BinaryOperator; left: Expression; right: Expression }
  | { kind: "call"; name: string; arguments: Expression[] };

export type Statement =
  | { kind: "assign"; name: string; value: Expression }
  | { kind: "assign-item"; name: string; index: Expression; value: Expression }
  | { kind: "if"; condition: Expression; then: Statement[]; otherwise: Statement[] }
  | { kind: "while"; condition: Expression; body: Statement[] }
  | { kind: "call"; call: Expression }
  | { kind: "return"; value: Expression };

/** Text that is no program. */
export class SyntaxProblem extends Error {}

/** Operators of one line bind equally, later lines more tightly. */
const precedence: readonly (readonly BinaryOperator[])[] = [
  ["||"],
  ["&&"],
  ["==", "!=", "<=", ">=", "<", ">"],
  ["+", "-"],
  ["*", "/", "%"],
];

/** Longer programs are refused before they are read: it bounds the depth of a tree, and so of the stack. */
const maxLength = 2_000;
/** Of blocks, brackets, signs, and terms in a chain. */
const maxDepth = 100;
const keywords: ReadonlySet<string> = new Set(["if", "else", "while", "return"]);

/** @throws SyntaxProblem saying what stands where something else must */
export function parseProgram(source: string): Statement[] {
  if (source.length > maxLength) throw new SyntaxProblem(`a program of ${source.length} characters is too long`);
  const parser = new Parser(tokensOf(source));
  const statements: Statement[] = [];
  while (!parser.atEnd) statements.push(parser.statement());
  return statements;
}

function tokensOf(source: string): string[] {
  const tokens: string[] = [];
  const pattern = /\s+|([a-z_]\w*|\d+|\|\||&&|[=!<>]=|[-+*/%<>=!()[\]{},;])|./giu;
  for (const [text, token] of source.matchAll(pattern)) {
    if (token !== undefined) tokens.push(token);
    else if (text.trim() !== "") throw new SyntaxProblem(`${JSON.stringify(text)} is not part of the language`);
  }
  return tokens;
}

class Parser {
  #at = 0;
  #depth = 0;

  constructor(readonly tokens: readonly string[]) {}

  get atEnd(): boolean {
    return this.#at >= this.tokens.length;
  }

  statement(): Statement {
    return this.#deeper(() => {
      if (this.#skip("if")) {
        const condition = this.#expression();
        const then = this.#block();
        if (!this.#skip("else")) return { kind: "if", condition, then, otherwise: [] };
        return { kind: "if", condition, then, otherwise: this.#peek() === "if" ? [this.statement()] : this.#block() };
      }
      if (this.#skip("while")) return { kind: "while", condition: this.#expression(), body: this.#block() };
      if (this.#skip("return")) return { kind: "return", value: this.#closed() };
      const name = this.#name();
      if (this.#peek() === "(") {
        this.#at--;
        return { kind: "call", call: this.#closed() };
      }
      if (!this.#skip("[")) {
        this.#expect("=");
        return { kind: "assign", name, value: this.#closed() };
      }
      const index = this.#expression();
      this.#expect("]");
      this.#expect("=");
      return { kind: "assign-item", name, index, value: this.#closed() };
    });
  }

  #closed(): Expression {
    const value = this.#expression();
    this.#expect(";");
    return value;
  }

  #block(): Statement[] {
    this.#expect("{");
    const statements: Statement[] = [];
    while (!this.#skip("}")) statements.push(this.statement());
    return statements;
  }

  #expression(level = 0): Expression {
    return this.#deeper(() => {
      const operators = precedence[level];
      if (!operators) return this.#unary();
      let left = this.#expression(level + 1);
      for (let terms = 1; ; terms++) {
        const operator = operators.find((each) => each === this.#peek());
        if (operator === undefined) return left;
        if (terms > maxDepth) throw new SyntaxProblem("an expression of too many terms");
        this.#at++;
        left = { kind: "binary", operator, left, right: this.#expression(level + 1) };
      }
    });
  }

  #unary(): Expression {
    return this.#deeper(() => {
      for (const operator of ["-", "!"] as const)
        if (this.#skip(operator)) return { kind: "unary", operator, operand: this.#unary() };
      let value = this.#primary();
      for (let indices = 1; this.#skip("["); indices++) {
        if (indices > maxDepth) throw new SyntaxProblem("too many indices");
        value = { kind: "index", list: value, index: this.#expression() };
        this.#expect("]");
      }
      return value;
    });
  }

  #primary(): Expression {
    const token = this.#peek();
    if (token !== undefined && /^\d/.test(token)) {
      this.#at++;
      const value = Number(token);
      if (!Number.isSafeInteger(value)) throw new SyntaxProblem("an integer beyond 2^53");
      return { kind: "integer", value };
    }
    if (this.#skip("(")) {
      const value = this.#expression();
      this.#expect(")");
      return value;
    }
    if (this.#skip("[")) return { kind: "list", items: this.#listTo("]") };
    const name = this.#name();
    return this.#skip("(") ? { kind: "call", name, arguments: this.#listTo(")") } : { kind: "variable", name };
  }

  #listTo(end: string): Expression[] {
    const items: Expression[] = [];
    while (!this.#skip(end)) {
      if (items.length > 0) this.#expect(",");
      items.push(this.#expression());
    }
    return items;
  }

  #name(): string {
    const token = this.#peek();
    if (token === undefined || !/^[a-z_]/i.test(token) || keywords.has(token))
      throw new SyntaxProblem(`${token ?? "the end"} stands where a name must`);
    this.#at++;
    return token;
  }

  #peek(): string | undefined {
    return this.tokens[this.#at];
  }

  #skip(token: string): boolean {
    if (this.#peek() !== token) return false;
    this.#at++;
    return true;
  }

  #expect(token: string): void {
    if (!this.#skip(token)) throw new SyntaxProblem(`${this.#peek() ?? "the end"} stands where ${token} must`);
  }

  #deeper<T>(parse: () => T): T {
    // An expression takes several levels of this count for each bracket.
    if (++this.#depth > 8 * maxDepth) throw new SyntaxProblem("brackets or blocks are nested too deeply");
    const parsed = parse();
    this.#depth--;
    return parsed;
  }
}
