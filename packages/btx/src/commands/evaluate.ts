import { mkdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { defineCommand, Mixtral, writeFileAtomic, writeReport } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { requireContext } from "../stages/context.js";
import { type DomainRouting, evaluateModel, type ModelScores, OpenModel, routingTable } from "../stages/index.js";
import { makeTask, taskNames } from "../tasks/index.js";
import { dataFields, folder, openData } from "./fields.js";
import { routingSection, scoresSections, scoresTable } from "./scores.js";

export const evaluateCommand = defineCommand({
  name: "evaluate",
  summary: "Held-out bits per byte of models on every domain, exact match of checkable tasks, routing.",
  description:
    "Tasks are answered greedily after solved examples, as many as fit. arithmetic: sums, differences and products; word-problems: one of these in words; programs: one line in a small language, run in an interpreter of its own on several inputs; facts: capitals and chemical symbols. The built-in domains @arithmetic, @word-problems, @programs and @facts hold none of the questions that are asked.",
  examples: [
    "btx evaluate --models models/seed,experts/code,models/finetuned",
    "btx evaluate --models models/finetuned --report runs/evaluation",
    "btx evaluate --models models/finetuned --tasks arithmetic,programs --json",
  ],
  schema: z.strictObject({
    models: z
      .array(z.string().min(1))
      .min(1)
      .describe("Folders of the models; all have one tokenizer.")
      .meta({ placeholder: "folders" }),
    data: dataFields.prefault({}),
    windows: z
      .number()
      .int()
      .positive()
      .default(64)
      .describe("Windows of held-out text of each domain.")
      .meta({ unit: "windows" }),
    sequence: z.number().int().min(2).default(256).describe("Tokens of a window.").meta({ unit: "tokens" }),
    batch: z.number().int().positive().default(16).describe("Windows evaluated at a time.").meta({ unit: "rows" }),
    tasks: z
      .array(z.enum(taskNames))
      .default([...taskNames])
      .describe("Kinds of questions, with one right answer each."),
    problems: z
      .number()
      .int()
      .nonnegative()
      .default(200)
      .describe("Questions of each task, at most; 0: none.")
      .meta({ unit: "problems" }),
    shots: z.number().int().nonnegative().default(4).describe("Solved examples before each question, at most."),
    json: z.boolean().default(false).describe("Print scores and routing as JSON instead of a table."),
    report: folder("Folder for report.html and results.json.").optional(),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { windows, sequence, batch, problems, shots, data } = config;
    await requireContext(config.models, sequence);
    const scores: ModelScores[] = [];
    const routing: Record<string, DomainRouting[]> = {};
    const asked = problems > 0 ? [...new Set(config.tasks)] : [];
    const tasks = asked.map((name) => makeTask(name, { count: problems, heldOutShare: data.heldOut, shots }));
    const names = shortNames(config.models);
    const stage = progress.stage("evaluate", { total: config.models.length, unit: "models" });
    for (const [i, path] of config.models.entries()) {
      using opened = await OpenModel.open(path);
      const domains = await openData(data, opened.tokenizer, signal);
      try {
        scores.push(await evaluateModel(opened, names[i]!, domains, { batch, sequence, windows, tasks, signal }));
        if (opened.model instanceof Mixtral) {
          routing[names[i]!] = await routingTable(opened.model, domains, { batch, sequence, windows }, signal);
        }
      } finally {
        closeDomains(domains);
      }
      stage.update(i + 1);
    }
    stage.succeed();
    const json = `${JSON.stringify({ scores, routing }, null, 2)}\n`;
    stdout.write(config.json ? json : scoresTable(scores));
    const unanswered = asked.filter((task) => scores.some(({ exactMatch }) => exactMatch[task] === null));
    if (unanswered.length > 0) progress.warn(`too long for the context of a model: ${unanswered.join(", ")}`);
    if (config.report === undefined) return;
    await mkdir(config.report, { recursive: true });
    await writeFileAtomic(join(config.report, "results.json"), json);
    const sections = Object.entries(routing).map(([name, table]) => routingSection(`Routing of ${name}`, table));
    await writeReport(join(config.report, "report.html"), {
      title: "btx evaluate",
      sections: [...scoresSections(scores), ...sections],
    });
    progress.log(`The report is ${join(config.report, "report.html")}.`);
  },
});

/** Folder names where they tell the models apart, paths where they do not. */
function shortNames(paths: readonly string[]): string[] {
  const names = paths.map((path) => basename(resolve(path)));
  return new Set(names).size === names.length ? names : [...paths];
}
