import { type CausalLM, diskLayout, type Parameter, type Tensor, tensor } from "@trefoil/core";

/** What `read` gives for each parameter, cut into the tensors that the folder on disk has. */
export async function diskTensors(
  model: CausalLM,
  read: (parameter: Parameter) => Tensor,
): Promise<Map<string, Tensor>> {
  const found = new Map<string, Tensor>();
  for (const [parameter, parts] of diskLayout(model)) {
    const values = (await read(parameter).data()) as Float32Array;
    for (const { name, shape, offset } of parts) {
      const size = shape.reduce((product, each) => product * each, 1);
      found.set(name, tensor(values.slice(offset, offset + size), { shape }));
    }
  }
  return found;
}
