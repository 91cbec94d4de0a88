import type { CaptionSetReport } from "./diversity.js";

/** What a table of caption sets says of each. */
export const captionSetTable = {
  title: "Diversity of captions",
  caption:
    "Entropy of their clusters (nats) and share in the 5 fullest, clusters fitted on the human ones; repeated ones; combinations of colour and shape: e to their entropy, and share that no pair has.",
  columns: ["captions", "entropy", "top 5", "repeated", "combinations", "new"].map((label) => ({ label })),
};

/** Its numbers, behind the name of the set. */
export const captionSetRow = (report: CaptionSetReport, set: "written" | "human"): (number | undefined)[] => [
  report[set].clusterEntropy,
  report[set].topClusters.top5,
  report[set].duplicates,
  report.combinations?.[set].effective,
  report.combinations?.[set].novel,
];
