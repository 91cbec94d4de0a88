/**
 * The built-in task's true quality: name every letter of the prompt once, the largest first, and stop. Only data generation and
 * evaluation may import this file: nothing that trains can see it.
 */

/** The letters that prompts are made of. */
export const letters = "abcdefghijk";
/** Stands between prompt and response. */
export const separator = "=";

/** Best possible quality. */
export const bestGold = 2.5;

/**
 * 2 × share of the prompt's letters named, +0.5 if the first letter is the prompt's largest, -0.25 for every repeat, -0.35 for everything
 * that is not in the prompt, -0.5 without an end.
 */
export function gold(prompt: string, response: string, ended: boolean): number {
  const wanted = new Set(prompt.replace(separator, ""));
  const named = new Set<string>();
  let quality = ended ? 0 : -0.5;
  for (const symbol of response) {
    if (named.has(symbol)) quality -= 0.25;
    else if (!wanted.has(symbol)) quality -= 0.35;
    named.add(symbol);
  }
  const covered = [...wanted].filter((letter) => named.has(letter)).length;
  const largest = [...wanted].sort().at(-1);
  return quality + (2 * covered) / wanted.size + (response[0] === largest ? 0.5 : 0);
}
