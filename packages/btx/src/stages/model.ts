import {
  type CausalLM,
  type LoadOptions,
  loadModel,
  loadTokenizer,
  Mixtral,
  type Tokenizer,
  type TransformerConfig,
} from "@trefoil/core";
import { StageError } from "./errors.js";

/** A model folder in memory. Frees its parameters when it goes out of scope. */
export class OpenModel implements Disposable {
  private constructor(
    readonly path: string,
    readonly model: CausalLM,
    readonly config: TransformerConfig,
    readonly tokenizer: Tokenizer,
  ) {}

  /** @param options routing in place of the folder's own @throws ModelFolderError, TokenizerError */
  static async open(path: string, options: LoadOptions = {}): Promise<OpenModel> {
    const { model, config } = await loadModel(path, options);
    return new OpenModel(path, model, config, await loadTokenizer(path));
  }

  /** The model as a mixture. @throws StageError when it is dense */
  get mixture(): Mixtral {
    if (this.model instanceof Mixtral) return this.model;
    throw new StageError("BTX_MODEL", `${this.path} is a dense model: make a mixture with \`btx mix\` first`);
  }

  [Symbol.dispose](): void {
    this.model.dispose();
  }
}
