import { InitialValues } from "@trefoil/core";
import { MixError } from "./errors.js";

/** What `btx_mix.json` says of the routers. */
export const describeRouter = (init: RouterInit): object =>
  init.kind === "given" ? (init.description ?? { kind: init.kind }) : init;

/** How the rows of the routers start. */
export type RouterInit =
  /** Normal; the paper does not state its own, public checkpoints of the method carry 0.02. */
  | { kind: "random"; standardDeviation?: number; seed?: number }
  /** Rows made elsewhere, such as by `ridgeRouter`: for each layer [experts, hidden]. `description`: how, for `btx_mix.json`. */
  | { kind: "given"; layers: readonly Float32Array[]; description?: object };

/** The router of each mixture layer, [experts, hidden]. Layers must be asked for in order. */
export function routerRows(
  init: RouterInit = { kind: "random" },
  experts: number,
  hiddenSize: number,
): (layer: number) => Float32Array {
  if (init.kind === "given") {
    return (layer) => {
      const rows = init.layers[layer];
      if (rows?.length !== experts * hiddenSize) {
        throw new MixError(
          "MIX_OPTIONS",
          `the router of layer ${layer} has ${rows?.length ?? 0} values, not ${experts} × ${hiddenSize}`,
        );
      }
      return rows;
    };
  }
  const { standardDeviation = 0.02, seed = 0 } = init;
  const values = new InitialValues(seed);
  return () => values.normal([experts, hiddenSize], standardDeviation);
}
