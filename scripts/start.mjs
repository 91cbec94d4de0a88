// npm start [-- recipe [flags]]: sets everything up and runs the quickstart of a recipe.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { SetupError } from "./setup/error.mjs";
import { main, root, setUp, wantsCuda } from "./setup/index.mjs";
import { runInteractive } from "./setup/phase.mjs";

await main(async () => {
  const [first, ...rest] = process.argv.slice(2);
  const named = first !== undefined && !first.startsWith("-");
  const recipe = named ? first : "btx";
  const flags = named ? rest : process.argv.slice(2);
  const recipes = readdirSync(join(root, "packages")).filter((name) =>
    existsSync(join(root, "packages", name, "src", "cli.ts")),
  );
  if (!recipes.includes(recipe))
    throw new SetupError(`There is no recipe "${recipe}": the recipes are ${recipes.join(", ")}.`);
  const env = await setUp({ cuda: wantsCuda(flags, process.env) });
  const command = join(root, "packages", recipe, "dist", "cli.js");
  return runInteractive(process.execPath, [command, "quickstart", ...flags], { cwd: process.cwd(), env });
});
