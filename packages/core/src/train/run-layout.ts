/** Names inside a run directory. */
export const RUN_LAYOUT = {
  config: "config.yaml",
  metrics: "metrics.jsonl",
  tensorboard: "tensorboard",
  checkpoints: "checkpoints",
  report: "report.html",
  lock: "run.lock",
} as const;
