import { add, type InitialValues, Module, type Parameter, RMSNorm, reshape, type Tensor } from "@trefoil/core";
import type { GeneratorArchitecture } from "./architecture.js";
import { type AttentionMemory, Block, positionTable } from "./layers.js";
import { Rotary } from "./rotary.js";
import { type TextBatch, TextEncoder } from "./text-encoder.js";

/** What every layer reads of the captions; made once for all steps of decoding. */
export interface Condition {
  memories: AttentionMemory[];
  /** i32 [batch] */
  lengths: Tensor;
}

/** No caption: every key of a layer is one state, and what its attention adds is the same everywhere, [width] each. */
export interface NoCondition {
  additions: Tensor[];
}

/** A bidirectional transformer over the grid with cross-attention to the caption (MUSE, arXiv 2301.00704, section 2.4). */
export class ConditionedStack extends Module {
  readonly text: TextEncoder;
  /** Of the rows and of the columns of the grid, [gridSize, width] each. */
  readonly rows: Parameter;
  readonly columns: Parameter;
  readonly blocks: Block[];
  readonly norm: RMSNorm;
  readonly #rotary: Rotary;

  constructor(
    readonly architecture: GeneratorArchitecture,
    initial: InitialValues,
  ) {
    super();
    const { gridSize, width, layers, heads, feedForward, textWidth: sourceWidth } = architecture;
    this.text = new TextEncoder(architecture, initial);
    this.rows = positionTable(gridSize, width, initial);
    this.columns = positionTable(gridSize, width, initial);
    this.blocks = Array.from({ length: layers }, () => new Block({ width, heads, feedForward, sourceWidth }, initial));
    this.norm = new RMSNorm(width);
    this.#rotary = Rotary.over(gridSize, width / heads);
  }

  condition(text: TextBatch): Condition {
    const { states, lengths } = this.text.forward(text);
    return { memories: this.blocks.map((block) => block.cross!.memory(states)), lengths };
  }

  noCondition(): NoCondition {
    return { additions: this.blocks.map((block) => block.cross!.ofConstant(this.text.absent)) };
  }

  /** x [batch, gridSize², width], or [1, ..] for a batch of one input -> [batch, ..], after the last norm. */
  forward(x: Tensor, condition: Condition | NoCondition): Tensor {
    const { gridSize, width } = this.architecture;
    const grid = add(reshape(this.rows, [gridSize, 1, width]), reshape(this.columns, [1, gridSize, width]));
    let y = add(x, reshape(grid, [gridSize * gridSize, width]));
    this.blocks.forEach((block, i) => {
      const source =
        "additions" in condition
          ? { constant: condition.additions[i]! }
          : { memory: condition.memories[i]!, lengths: condition.lengths };
      y = block.forward(y, this.#rotary, undefined, source);
    });
    return this.norm.forward(y);
  }
}
