import { type Expression, parseProgram, type Statement, SyntaxProblem } from "./syntax.js";

/** Integers and lists of them; lists are shared, as in most languages. */
export type Value = number | number[];

export interface RunLimits {
  /** Statements and operations that are carried out, at most. Default 10,000. */
  steps?: number;
  /** List elements that are made in all, at most. Default 10,000. */
  cells?: number;
}

/** What a program came to. */
export type Outcome =
  | { ok: true; value: Value }
  | { ok: false; reason: "syntax" | "type" | "name" | "range" | "steps" | "memory" | "no-result"; message: string };

type Failure = Extract<Outcome, { ok: false }>["reason"];

class RunProblem extends Error {
  constructor(
    readonly reason: Failure,
    message: string,
  ) {
    super(message);
  }
}

/**
 * Runs a program of a small language of integers and lists: assignments, `if`, `while`, `return`, and the functions abs, min, max, len and
 * push. It has no way to files, time or anything outside of its variables.
 *
 * Any text may be given: what is wrong with it comes back as an outcome, and nothing is thrown. Time is bounded by `steps`, memory by
 * `cells`, the stack by the parser's depth.
 * @param variables set before the first statement
 */
export function runProgram(
  source: string,
  variables: Readonly<Record<string, Value>> = {},
  limits: RunLimits = {},
): Outcome {
  try {
    const machine = new Machine(variables, limits);
    const value = machine.run(parseProgram(source));
    if (value !== undefined) return { ok: true, value };
    return { ok: false, reason: "no-result", message: "the program ends without return" };
  } catch (error) {
    if (error instanceof SyntaxProblem) return { ok: false, reason: "syntax", message: error.message };
    if (error instanceof RunProblem) return { ok: false, reason: error.reason, message: error.message };
    throw error;
  }
}

class Machine {
  readonly #variables: Map<string, Value>;
  #steps: number;
  #cells: number;

  constructor(variables: Readonly<Record<string, Value>>, { steps = 10_000, cells = 10_000 }: RunLimits) {
    this.#variables = new Map(Object.entries(variables));
    this.#steps = steps;
    this.#cells = cells;
  }

  /** The value of the first `return` that is reached. */
  run(statements: readonly Statement[]): Value | undefined {
    for (const statement of statements) {
      const value = this.#execute(statement);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  #execute(statement: Statement): Value | undefined {
    this.#step();
    switch (statement.kind) {
      case "assign":
        this.#variables.set(statement.name, this.#evaluate(statement.value));
        return undefined;
      case "assign-item": {
        const list = listOf(this.#variable(statement.name));
        const index = this.#evaluate(statement.index);
        list[positionIn(list, index)] = integerOf(this.#evaluate(statement.value));
        return undefined;
      }
      case "if":
        return this.run(integerOf(this.#evaluate(statement.condition)) ? statement.then : statement.otherwise);
      case "while":
        while (integerOf(this.#evaluate(statement.condition))) {
          const value = this.run(statement.body);
          if (value !== undefined) return value;
        }
        return undefined;
      case "call":
        this.#evaluate(statement.call);
        return undefined;
      case "return":
        return this.#evaluate(statement.value);
    }
  }

  #evaluate(expression: Expression): Value {
    this.#step();
    switch (expression.kind) {
      case "integer":
        return expression.value;
      case "variable":
        return this.#variable(expression.name);
      case "list":
        this.#allocate(expression.items.length);
        return expression.items.map((item) => integerOf(this.#evaluate(item)));
      case "index": {
        const list = listOf(this.#evaluate(expression.list));
        return list[positionIn(list, this.#evaluate(expression.index))]!;
      }
      case "unary": {
        const value = integerOf(this.#evaluate(expression.operand));
        return expression.operator === "-" ? 0 - value : Number(value === 0);
      }
      case "binary":
        return this.#binary(expression);
      case "call":
        return this.#call(
          expression.name,
          expression.arguments.map((each) => this.#evaluate(each)),
        );
    }
  }

  #binary({ operator, left, right }: Extract<Expression, { kind: "binary" }>): number {
    const a = integerOf(this.#evaluate(left));
    // The right side of these counts only where the left leaves it open.
    if (operator === "&&" && a === 0) return 0;
    if (operator === "||" && a !== 0) return 1;
    const b = integerOf(this.#evaluate(right));
    switch (operator) {
      case "&&":
      case "||":
        return Number(b !== 0);
      case "+":
        return inRange(a + b);
      case "-":
        return inRange(a - b);
      case "*":
        return inRange(a * b);
      case "/":
      case "%": {
        if (b === 0) throw new RunProblem("range", "division by 0");
        // Rounded towards minus infinity, so that a == (a / b) * b + a % b with a remainder of b's sign.
        const quotient = Math.floor(a / b);
        return inRange(operator === "/" ? quotient : a - quotient * b);
      }
      case "==":
        return Number(a === b);
      case "!=":
        return Number(a !== b);
      case "<":
        return Number(a < b);
      case "<=":
        return Number(a <= b);
      case ">":
        return Number(a > b);
      case ">=":
        return Number(a >= b);
    }
  }

  #call(name: string, values: readonly Value[]): Value {
    const take = (count: number) => {
      if (values.length !== count)
        throw new RunProblem("type", `${name} takes ${count} arguments, not ${values.length}`);
    };
    switch (name) {
      case "abs":
        take(1);
        return Math.abs(integerOf(values[0]!));
      case "min":
      case "max":
        take(2);
        return Math[name](integerOf(values[0]!), integerOf(values[1]!));
      case "len":
        take(1);
        return listOf(values[0]!).length;
      case "push": {
        take(2);
        this.#allocate(1);
        const list = listOf(values[0]!);
        list.push(integerOf(values[1]!));
        return list;
      }
      default:
        throw new RunProblem("name", `there is no function ${name}`);
    }
  }

  #variable(name: string): Value {
    const value = this.#variables.get(name);
    if (value === undefined) throw new RunProblem("name", `${name} has no value yet`);
    return value;
  }

  #step(): void {
    if (--this.#steps < 0) throw new RunProblem("steps", "the program takes too many steps");
  }

  #allocate(cells: number): void {
    this.#cells -= cells;
    if (this.#cells < 0) throw new RunProblem("memory", "the program's lists take too much memory");
  }
}

function integerOf(value: Value): number {
  if (typeof value === "number") return value;
  throw new RunProblem("type", "a list stands where an integer must");
}

function listOf(value: Value): number[] {
  if (typeof value !== "number") return value;
  throw new RunProblem("type", "an integer stands where a list must");
}

function positionIn(list: readonly number[], index: Value): number {
  const position = integerOf(index);
  if (position >= 0 && position < list.length) return position;
  throw new RunProblem("range", `index ${position} of a list of ${list.length}`);
}

function inRange(value: number): number {
  if (Number.isSafeInteger(value)) return value === 0 ? 0 : value;
  throw new RunProblem("range", "an integer beyond 2^53");
}
