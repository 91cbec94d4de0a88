import { StageError } from "./errors.js";

/**
 * The domains that are this process's, of an array job. Slurm's array index and Kubernetes's completion index stand for one domain each,
 * counted from 0, so that `--array=2` runs one domain alone again; the ranks of `mpirun` take turns at the domains, so that any number of
 * them does all.
 * @param env with SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, or OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE
 * @throws StageError when none is set, or there is no domain of that index
 */
export function domainsOfArrayJob(domains: readonly string[], env: NodeJS.ProcessEnv): string[] {
  const read = (name: string): number | undefined => {
    const text = env[name];
    if (text === undefined || text === "") return undefined;
    if (/^\d+$/.test(text)) return Number(text);
    throw new StageError("BTX_OPTIONS", `${name} is ${JSON.stringify(text)}, not an index: count the domains from 0`);
  };
  for (const name of ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"]) {
    const index = read(name);
    if (index === undefined) continue;
    if (index < domains.length) return [domains[index]!];
    const last = domains.length - 1;
    throw new StageError("BTX_OPTIONS", `${name} is ${index}, but the domains are 0 to ${last}: ${domains.join(", ")}`);
  }
  const rank = read("OMPI_COMM_WORLD_RANK");
  if (rank === undefined) {
    const names = "SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX or OMPI_COMM_WORLD_RANK";
    throw new StageError("BTX_OPTIONS", `this is no array job: none of ${names} is set; name domains with --only`);
  }
  const size = Math.max(1, read("OMPI_COMM_WORLD_SIZE") ?? 1);
  return domains.filter((_, index) => index % size === rank);
}
