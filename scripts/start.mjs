// npm start [-- [recipe] [flags]]: sets everything up and runs the quickstarts one after the other, or that of the recipe named.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { SetupError } from "./setup/error.mjs";
import { main, root, setUp, wantsCuda } from "./setup/index.mjs";
import { runInteractive } from "./setup/phase.mjs";

/** Recipes whose quickstarts run when none is named. */
const quickstarts = ["btx", "contrastive-rlhf", "synth2"];

await main(async () => {
  const [first, ...rest] = process.argv.slice(2);
  const named = first !== undefined && !first.startsWith("-");
  const flags = named ? rest : process.argv.slice(2);
  const recipes = readdirSync(join(root, "packages")).filter((name) =>
    existsSync(join(root, "packages", name, "src", "cli.ts")),
  );
  if (named && !recipes.includes(first))
    throw new SetupError(`There is no recipe "${first}": the recipes are ${recipes.join(", ")}.`);
  const env = await setUp({ cuda: wantsCuda(flags, process.env) });
  for (const recipe of named ? [first] : quickstarts) {
    const command = join(root, "packages", recipe, "dist", "cli.js");
    const status = await runInteractive(process.execPath, [command, "quickstart", ...flags], {
      cwd: process.cwd(),
      env,
    });
    if (status !== 0) return status;
  }
  return 0;
});
