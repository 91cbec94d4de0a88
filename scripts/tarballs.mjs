// node scripts/tarballs.mjs [tarballs]: sets everything up and packs the packages, for `npm install` in a project of one's own.
import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { SetupError } from "./setup/error.mjs";
import { main, root, setUp } from "./setup/index.mjs";

await main(async () => {
  const folder = resolve(process.argv[2] ?? "tarballs");
  const env = await setUp();
  const which = ["--filter=./native", "--filter=./packages/*"];
  const pack = spawnSync("pnpm", ["--recursive", ...which, "pack", "--pack-destination", folder], {
    cwd: root,
    env,
    encoding: "utf8",
  });
  if (pack.status !== 0)
    throw new SetupError(
      "The packages could not be packed.",
      `${pack.error?.message ?? ""}${pack.stdout}${pack.stderr}`,
    );
  console.log(`In your project: npm install "${folder}"/*.tgz`);
  return 0;
});
