import { ByteTokenizer, markdownTable, type PairedTest } from "@trefoil/core";
import { type ArmSummary, activeParameters, finetuneShare } from "../experiment/index.js";
import { type ReproduceResult, sweepPoints } from "./reproduce-report.js";

const table = (columns: readonly string[], rows: readonly (readonly string[])[]) => markdownTable({ columns, rows });
const fixed = (value: number | undefined, digits = 3) => value?.toFixed(digits) ?? "–";
const signed = (value: number) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
const difference = (test: PairedTest | undefined) =>
  test ? `${signed(test.mean)} (${signed(test.interval[0])} to ${signed(test.interval[1])})` : "–";
const minutes = (value: number) => value.toFixed(value < 10 ? 1 : 0);
const count = (value: number) => Math.round(value).toLocaleString("en");

/** What was run, in words and from its settings. */
function setup({ settings, completed, arms, spent }: ReproduceResult): string {
  const { sizes, seeds, batch, sequence, seedSteps, steps, windows } = settings;
  const { vocabSize } = new ByteTokenizer();
  const headDim = sizes.hiddenSize / sizes.heads;
  const parameters = activeParameters({ ...sizes, vocabSize, headDim, tieWordEmbeddings: true });
  const done = completed ? `All ${arms.length} arms of ${seeds} seeds are done.` : "Not all arms are done.";
  const took = spent ? ` It took ${minutes(spent.wall)} minutes, and ${minutes(spent.cpu)} of CPU time.` : "";
  const [paper, levers] = [finetuneShare.paper, finetuneShare.levers].map((share) => `${Math.round(100 * share)} %`);
  return [
    `A dense model of about ${count(parameters / 1000)} k parameters (${sizes.layers} layers of ${sizes.hiddenSize}) on bytes of code, prose and arithmetic; ${seedSteps} updates of ${batch} × ${sequence} tokens for the seed, then compute worth ${steps} of its updates for every arm.`,
    `\`paper\`: branches train everything on their domain alone, random routers, ${paper} of the compute in finetuning. \`levers\`: branches train feed-forward layers alone with a tenth of replay, ridge routers, ${levers}.`,
    `Bits per byte of the second half of ${windows} held-out windows of each domain, given the first; lower is better. \`switching\`: windows that change domain every 24 to 48 bytes.`,
    `Intervals are of 95 %, of differences paired by seed. They say how sure the difference is over seeds, on these windows; many are looked at, and none is corrected for that. ${done}${took}`,
  ].join("\n");
}

const armRow = (arm: ArmSummary, domains: readonly string[]): string[] => [
  arm.arm,
  ...domains.map((domain) => fixed(arm.bitsPerByte[domain])),
  fixed(arm.mean),
  fixed(arm.switching),
  difference(arm.againstDense),
  difference(arm.switchingAgainstDense),
  arm.exactMatch === undefined ? "–" : `${(100 * arm.exactMatch).toFixed(0)} %`,
  fixed(arm.specialisation, 2),
  fixed(arm.tokens / 1e6, 2),
  fixed(arm.flops / 1e12, 2),
  fixed(arm.seconds, 0),
];

/** The results as a page of Markdown: everything in it comes from the rows and the settings. */
export function reproduceMarkdown(result: ReproduceResult): string {
  const { arms, findings } = result;
  const domains = Object.keys(arms[0]?.bitsPerByte ?? {});
  const held = (["yes", "no", "not shown"] as const).map((verdict) => {
    const statements = findings.filter(({ holds }) => holds === verdict);
    return `${statements.length} ${{ yes: "hold", no: "do not", "not shown": "are not shown" }[verdict]}`;
  });
  const parts = [
    setup(result),
    `### Expectations, written before the run\n\nOf ${findings.length} statements ${held.join(", ")}: their interval includes the bound.`,
    table(
      ["statement", "holds", "difference in bits per byte"],
      findings.map(({ statement, holds, evidence }) => [statement, holds === "no" ? "**no**" : holds, evidence]),
    ),
    "### Share of the compute in finetuning, at equal FLOPs\n\nBranches with levers. At 1 nothing is left for them: sparse upcycling. At 0 there is no finetuning: the plain average, of branches with the compute that the regime leaves them.",
    table(
      ["share", "one domain", "switching"],
      sweepPoints(result).map(({ share, arm }) => [String(share), fixed(arm.mean), fixed(arm.switching)]),
    ),
    "### All arms\n\nMinus dense: against dense continued training at equal FLOPs. Solved: held-out arithmetic. Specialisation: how much the choice of an expert says of the domain, 0 to 1. Tokens, FLOPs (6 × active parameters × tokens) and CPU seconds are those after the seed; ensembles pay for every member again at inference.",
    table(
      [
        ...["arm", ...domains, "mean", "switching", "mean minus dense", "switching minus dense", "solved"],
        ...["specialisation", "M tokens", "TFLOP", "s"],
      ],
      arms.map((arm) => armRow(arm, domains)),
    ),
  ];
  return `${parts.join("\n\n")}\n`;
}
