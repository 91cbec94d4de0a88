import type { Question } from "./question.js";

const capitals =
  "Austria Vienna,Belgium Brussels,Canada Ottawa,Chile Santiago,China Beijing,Cuba Havana,Denmark Copenhagen,Egypt Cairo,England London,Finland Helsinki,France Paris,Germany Berlin,Greece Athens,Hungary Budapest,Iceland Reykjavik,Iran Tehran,Iraq Baghdad,Ireland Dublin,Italy Rome,Japan Tokyo,Kenya Nairobi,Norway Oslo,Peru Lima,Poland Warsaw,Portugal Lisbon,Russia Moscow,Spain Madrid,Sweden Stockholm,Thailand Bangkok,Turkey Ankara";
const symbols =
  "hydrogen H,helium He,lithium Li,carbon C,nitrogen N,oxygen O,neon Ne,sodium Na,magnesium Mg,aluminium Al,silicon Si,phosphorus P,sulfur S,chlorine Cl,potassium K,calcium Ca,iron Fe,nickel Ni,copper Cu,zinc Zn,silver Ag,tin Sn,gold Au,mercury Hg,lead Pb,uranium U";

const pairs = (list: string) => list.split(",").map((pair) => pair.split(" ") as [string, string]);

/** Facts that general text states often: capitals and chemical symbols. */
export function facts(): Question[] {
  return [
    ...pairs(capitals).map(([country, city]) => ({ prompt: `The capital of ${country} is `, answer: city })),
    ...pairs(symbols).map(([element, symbol]) => ({ prompt: `The symbol of ${element} is `, answer: symbol })),
  ].map(({ prompt, answer }) => ({ prompt, answer, accepts: (line: string) => line.replace(/\.$/, "") === answer }));
}

/** The same facts in other sentences, to learn them from: none begins as a question does. */
export const factStatements = (): string[] => [
  ...pairs(capitals).flatMap(([country, city]) => [
    `${city} is the capital of ${country}.`,
    `${country} has its capital in ${city}.`,
    `Asked for the capital of ${country}, say ${city}.`,
  ]),
  ...pairs(symbols).flatMap(([element, symbol]) => [
    `${symbol} is the symbol of ${element}.`,
    `Chemists write ${symbol} for ${element}.`,
    `Asked for the symbol of ${element}, say ${symbol}.`,
  ]),
];
