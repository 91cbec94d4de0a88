import { z } from "zod";

/** Why a file could not be read, in a line. Of what its schema refuses, the first: `weights.0: expected number`. */
export function reasonOf(error: unknown): string {
  if (error instanceof z.ZodError) {
    const issue = error.issues[0];
    return `${issue?.path.join(".") || "the file"}: ${issue?.message ?? "invalid"}`;
  }
  return error instanceof Error ? error.message : String(error);
}
