import { readTransformerConfig } from "@trefoil/core";
import { StageError } from "./errors.js";

/**
 * Refuses rows longer than a model's context, and folders that are no models, before text is read or another model is run.
 * @param flag that sets `sequence` @throws StageError, ModelFolderError
 */
export async function requireContext(models: readonly string[], sequence: number, flag = "--sequence"): Promise<void> {
  for (const model of models) {
    const { maxPositions } = await readTransformerConfig(model);
    if (sequence <= maxPositions) continue;
    throw new StageError(
      "BTX_OPTIONS",
      `${flag} is ${sequence}, but ${model} has ${maxPositions} positions: give ${flag} ${maxPositions} or less`,
    );
  }
}
