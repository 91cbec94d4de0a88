import { createHash } from "node:crypto";
import { InitialValues } from "@trefoil/core";
import type { DemonstrationText, PreferenceText, PromptText } from "../data/index.js";
import { gold, letters, separator } from "./gold.js";

/** Letters of a prompt. */
const promptLetters = 4;
/** Tokens of a response, the end included. */
export const taskResponseTokens = 8;

export interface TaskPrompts {
  training: string[];
  heldOut: string[];
}

/** Uniform numbers of one purpose. */
const stream = (seed: number, purpose: number): InitialValues => new InitialValues(seed * 1000 + purpose);

/** Different prompts in random order; the held-out ones are not among the others. There are 7920. */
export function taskPrompts(training: number, heldOut: number, seed: number): TaskPrompts {
  const random = stream(seed, 1);
  const prompts = new Set<string>();
  while (prompts.size < training + heldOut)
    prompts.add(
      shuffled([...letters], random)
        .slice(0, promptLetters)
        .join("") + separator,
    );
  const all = [...prompts];
  return { training: all.slice(0, training), heldOut: all.slice(training) };
}

function shuffled(items: string[], random: InitialValues): string[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    [items[i], items[j]] = [items[j]!, items[i]!];
  }
  return items;
}

/** Prompts as rows of a file would give them. */
export const promptTexts = (prompts: readonly string[]): PromptText[] =>
  prompts.map((prompt, i) => ({ line: i + 1, prompt, templated: false, row: { prompt } }));

/** Responses of an unskilled writer: each letter is any letter at the rate `noise`, else the next of the prompt's in random order. */
export function taskDemonstrations(prompts: readonly string[], noise: number, seed: number): DemonstrationText[] {
  const random = stream(seed, 2);
  return promptTexts(prompts).map((text) => {
    const wanted = shuffled([...text.prompt.replace(separator, "")], random);
    const length = 2 + Math.floor(random.next() * 5);
    const any = () => letters[Math.floor(random.next() * letters.length)]!;
    const completion = Array.from({ length }, (_, i) =>
      random.next() < noise ? any() : (wanted[i % wanted.length] ?? any()),
    ).join("");
    return { ...text, completion };
  });
}

interface PairSide {
  text: string;
  ended: boolean;
}

/** Two responses to one prompt. */
export interface ResponsePair {
  prompt: string;
  responses: readonly [PairSide, PairSide];
}

/** What an annotator says of the `i`th pair; nothing of equal texts. */
export function preferenceOf(pair: ResponsePair, i: number, firstIsBetter: boolean): PreferenceText[] {
  const { prompt, responses } = pair;
  const [chosen, rejected] = firstIsBetter ? responses : ([responses[1], responses[0]] as const);
  if (chosen.text === rejected.text) return [];
  const texts = { chosen: chosen.text, rejected: rejected.text, margin: undefined };
  const ended = { chosen: chosen.ended, rejected: rejected.ended };
  return [{ line: i + 1, prompt, templated: false, row: { prompt }, ...texts, ended }];
}

/**
 * Preferences of annotators who see quality through Bradley–Terry noise (P = σ(sharpness × difference)) and then flip a label at the rate
 * `flips`. Pairs of equal texts are left out.
 */
export function taskPreferences(
  pairs: readonly ResponsePair[],
  sharpness: number,
  flips: number,
  seed: number,
): PreferenceText[] {
  const random = stream(seed, 3);
  return pairs.flatMap((pair, i) => {
    const {
      prompt,
      responses: [a, b],
    } = pair;
    const difference = gold(prompt, a.text, a.ended) - gold(prompt, b.text, b.ended);
    const likesA = random.next() < 1 / (1 + Math.exp(-sharpness * difference));
    const flipped = random.next() < flips;
    return preferenceOf(pair, i, likesA !== flipped);
  });
}

/** A response as the sampling stage gives it. */
export interface TaskResponse {
  promptText: string;
  responseText: string;
  ended: boolean;
}

/** Neighbouring responses to one prompt as pairs. */
export function pairsOf(responses: readonly TaskResponse[]): ResponsePair[] {
  return Array.from({ length: Math.floor(responses.length / 2) }, (_, i) => {
    const [a, b] = [responses[2 * i]!, responses[2 * i + 1]!];
    const side = ({ responseText: text, ended }: TaskResponse) => ({ text, ended });
    return { prompt: a.promptText, responses: [side(a), side(b)] as const };
  });
}

/** A standard normal number that only depends on the prompt. */
export function promptNormal(prompt: string, seed: number): number {
  const digest = createHash("sha256").update(`${seed} ${prompt}`).digest();
  const uniform = (at: number) => (digest.readUInt32LE(at) + 0.5) / 2 ** 32;
  return Math.sqrt(-2 * Math.log(uniform(0))) * Math.cos(2 * Math.PI * uniform(4));
}
