import { existsSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import { RUN_LAYOUT, readMetricsFile, reasonOf, runOwner, TrefoilError, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { StageError } from "./errors.js";

const planFile = "branches.json";
/** `output` is relative to the run directory: who asks may stand elsewhere, or on another machine. */
const planSchema = z.object({ output: z.string(), domains: z.array(z.string()), steps: z.number() });
const failureSchema = z.object({ message: z.string(), code: z.string().optional(), time: z.string() });

/** What the branches of a run directory are, kept beside them as `branches.json`. */
type BranchPlan = z.output<typeof planSchema>;

/**
 * - `waiting`: not begun
 * - `running`: a process holds the run's lock
 * - `failed`: it ended with an error
 * - `dead`: its process was killed
 * - `stopped`: it was asked to stop, and saved
 * - `done`: the expert is written
 */
export type BranchState = "waiting" | "running" | "failed" | "dead" | "stopped" | "done";

export interface BranchStatus {
  domain: string;
  state: BranchState;
  /** Steps done and to do. */
  step: number;
  steps: number;
  /** Of the last step, in nats per token. */
  loss?: number;
  /** Who runs it, or ran it when killed. */
  process?: { pid: number; host: string; since: string };
  /** Why it failed. */
  reason?: string;
}

function parsed<T>(schema: z.ZodType<T>, path: string, text: string): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    const reason = `${path} is not what this version writes (${reasonOf(cause)}): begin the branches anew`;
    throw new StageError("BTX_BRANCHES", reason, { cause });
  }
}

/** Writes what the branches are, for whoever asks how they fare. */
export async function writeBranchPlan(run: string, plan: BranchPlan): Promise<void> {
  await mkdir(run, { recursive: true });
  const placed = { ...plan, output: relative(run, plan.output) };
  await writeFileAtomic(join(run, planFile), `${JSON.stringify(placed, null, 2)}\n`);
}

/**
 * How each branch fares, from what is on disk alone.
 * @throws StageError when the directory has no branches
 */
export async function branchStatus(run: string): Promise<BranchStatus[]> {
  const text = await readFile(join(run, planFile), "utf8").catch(() => undefined);
  if (text === undefined) {
    throw new StageError("BTX_OPTIONS", `${run} has no ${planFile}: name the run directory of \`btx branch\``);
  }
  const { output, domains, steps } = parsed(planSchema, join(run, planFile), text);
  return await Promise.all(domains.map((domain) => statusOf(domain, { run, output: resolve(run, output), steps })));
}

async function statusOf(
  domain: string,
  { run, output, steps }: { run: string; output: string; steps: number },
): Promise<BranchStatus> {
  const directory = join(run, domain);
  const [owner, failure] = [await runOwner(directory), await readFailure(run, domain)];
  const metrics = join(directory, RUN_LAYOUT.metrics);
  const last = existsSync(metrics) ? (await readMetricsFile(metrics)).at(-1) : undefined;
  const state = (): BranchState => {
    if (owner && !owner.gone) return "running";
    if (failure) return "failed";
    if (existsSync(join(output, domain))) return "done";
    if (owner) return "dead";
    return existsSync(join(directory, RUN_LAYOUT.config)) ? "stopped" : "waiting";
  };
  return {
    domain,
    state: state(),
    step: last?.step ?? 0,
    steps,
    ...(last?.values.loss !== undefined && { loss: last.values.loss }),
    ...(owner && { process: { pid: owner.pid, host: owner.host, since: owner.since } }),
    ...(failure && { reason: failure.message }),
  };
}

const failurePath = (run: string, domain: string) => join(run, `${domain}.failed.json`);

/** Why a branch failed last; undefined when it did not. */
export async function readFailure(run: string, domain: string): Promise<z.output<typeof failureSchema> | undefined> {
  const path = failurePath(run, domain);
  const text = await readFile(path, "utf8").catch(() => undefined);
  return text === undefined ? undefined : parsed(failureSchema, path, text);
}

export async function writeFailure(run: string, domain: string, error: unknown): Promise<void> {
  const message = error instanceof Error ? error.message : String(error);
  const failure = {
    message,
    ...(error instanceof TrefoilError && { code: error.code }),
    time: new Date().toISOString(),
  };
  await mkdir(run, { recursive: true });
  await writeFileAtomic(failurePath(run, domain), `${JSON.stringify(failure, null, 2)}\n`);
}

/** A branch begins anew: what it failed of is forgotten. */
export const clearFailure = (run: string, domain: string): Promise<void> =>
  rm(failurePath(run, domain), { force: true });
