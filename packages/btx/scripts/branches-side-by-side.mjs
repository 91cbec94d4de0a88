// Measures what two branches side by side on two cores take beside one branch on one core: the aim is at most 1.1 times as long.
// Both are `btx branch` with one thread for each branch, on the same domain text and steps; who goes first alternates, and rounds are
// compared one by one. Node's start is in both, once for each process: that of the command itself and, of two, those of its branches.
// Needs an otherwise idle machine of at least two cores, and Linux (taskset).
//   node scripts/branches-side-by-side.mjs [rounds, default 7] [steps, default 30]
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [rounds, steps] = [Number(process.argv[2] ?? 7), process.argv[3] ?? "30"];
const cli = fileURLToPath(new URL("../bin/btx.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "btx-side-by-side-"));
const data = ["--data.domains", '{"a":"@arithmetic","b":"@arithmetic"}', "--data.max-bytes", "1000000"];

/** Seconds of a command on some cores. */
function timed(cores, threads, args) {
  const start = performance.now();
  const { status, stderr } = spawnSync("taskset", ["-c", cores, process.execPath, cli, ...args, ...data, "--quiet"], {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, TREFOIL_THREADS: String(threads) },
  });
  if (status !== 0) throw new Error(stderr);
  return (performance.now() - start) / 1000;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const branch = (output, more) => ["branch", "--seed", "seed", "--output", output, "--train.steps", steps, ...more];

try {
  timed("0,1", 2, ["seed", "--output", "seed", "--train.steps", "1"]);
  // Tokenises the text, so that no round does.
  timed("0,1", 2, ["branch", "--seed", "seed", "--output", "warm", "--train.steps", "1"]);
  const sides = [
    (round) => timed("0", 1, branch(`one-${round}`, ["--jobs", "1", "--only", "a"])),
    (round) => timed("0,1", 2, branch(`two-${round}`, ["--jobs", "2"])),
  ];
  const [seconds, ratios] = [[[], []], []];
  for (let round = 0; round < rounds; round++) {
    for (const side of [round % 2, 1 - (round % 2)]) seconds[side].push(sides[side](round));
    const [one, two] = seconds.map((side) => side.at(-1));
    ratios.push(two / one);
    console.log(
      `round ${round + 1}: one ${one.toFixed(2)} s, two ${two.toFixed(2)} s, ratio ${(two / one).toFixed(3)}`,
    );
  }
  const [least, most] = [Math.min(...ratios), Math.max(...ratios)];
  const medians = seconds.map((side) => `${median(side).toFixed(2)} s`).join(" and ");
  console.log(
    `two on two cores: ${median(ratios).toFixed(3)} × one on one core (${least.toFixed(3)} to ${most.toFixed(3)}; medians of ${medians})`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
