import { Writable } from "node:stream";
import { runCli } from "@trefoil/core";
import { commands } from "../../src/commands/index.js";

/** Runs a command of the program in this process. @returns its exit code and what it printed */
export async function synth2(line: string): Promise<{ code: number; printed: string }> {
  let printed = "";
  const stream = () =>
    new Writable({
      write: (chunk, _, done) => {
        printed += String(chunk);
        done();
      },
    });
  const argv = [...line.matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word);
  const code = await runCli({
    name: "synth2",
    version: "0",
    commands,
    argv,
    stdout: stream(),
    stderr: stream(),
    env: {},
  });
  return { code, printed };
}

const train = "--train.steps 2 --train.batch 4";
const pairs = "--data small-world:paired:16";
const tokenizer = `tokenizer ${pairs} ${train} --model.patch-size 2 --model.channels 8,8 --model.codes 16`;
const generator = `generator ${pairs} ${train} --model.width 16 --model.layers 1 --model.heads 2 --model.feed-forward 16 --model.text-width 8 --model.max-text-tokens 48`;
const language = `language-model ${pairs} ${train} --model.hidden-size 32 --model.layers 1 --model.intermediate-size 32`;
export const smallVlm = `${train} --model.width 16 --model.latents 2 --model.heads 2`;

/** Models of seconds that learn nothing, each trained by its command: two tokenizers, both kinds of generators, two language models. */
export async function trainModels(at: (name: string) => string): Promise<void> {
  const size = "--model.image-size 16 --model.structure-codes 8";
  const lines = [
    `${tokenizer} ${size} --output ${at("tokenizer")}`,
    `${tokenizer} ${size} --train.seed 1 --output ${at("other-tokenizer")}`,
    `${generator} --tokenizer ${at("tokenizer")} --output ${at("masked")}`,
    `${generator} --tokenizer ${at("tokenizer")} --kind continuous --held-out small-world:test:8 --output ${at("continuous")}`,
    `${language} --output ${at("language")}`,
    `${language} --vocabulary 300 --output ${at("other-language")}`,
    `vlm ${pairs} --tokenizer ${at("tokenizer")} --language-model ${at("language")} ${smallVlm} --output ${at("vlm")}`,
  ];
  for (const line of lines) {
    const { code, printed } = await synth2(line);
    if (code !== 0) throw new Error(`${line}\n${printed}`);
  }
}
