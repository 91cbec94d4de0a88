import { expect, it } from "vitest";
import {
  compile,
  gradients,
  namedState,
  ones,
  RandomGenerator,
  restoreParameters,
  storedTensors,
  type Tensor,
  tensor,
} from "../../src/index.js";

const size = 20_000;
const values = async (x: Tensor) => [...(await x.data())];

it("sets values to 0 at the rate, scales the others, and its gradient has the same places", async () => {
  const random = new RandomGenerator(3);
  const run = compile((x: Tensor) => {
    const y = random.dropout(x, 0.3);
    return { y, dx: gradients(y.mul(2).sum(), [x])[0]! };
  });
  const { y, dx } = await run(ones([size]));
  const kept = await values(y);
  const factor = Math.fround(1 / 0.7);
  expect(new Set(kept)).toEqual(new Set([0, factor]));
  // Five standard deviations of a binomial share.
  const share = kept.filter((value) => value === 0).length / size;
  expect(Math.abs(share - 0.3)).toBeLessThan(5 * Math.sqrt((0.3 * 0.7) / size));
  expect(await values(dx)).toEqual(kept.map((value) => 2 * value));
  const again = await run(ones([size]));
  expect(await values(again.y)).not.toEqual(kept);
});

it("draws apart at each use, and nothing at rate 0", async () => {
  const random = new RandomGenerator(3);
  const run = compile((x: Tensor) => [random.dropout(x, 0.5), random.dropout(x, 0.5), random.dropout(x, 0)]);
  const [a, b, c] = await run(ones([64]));
  expect(await values(a!)).not.toEqual(await values(b!));
  expect(await values(c!)).toEqual(new Array(64).fill(1));
  expect(() => random.dropout(tensor([1]), 1)).toThrow(/dropout: rate is 1; it must be from 0 to below 1/);
});

it("goes on where a checkpoint of its generator left off", async () => {
  const make = () => {
    const random = new RandomGenerator(7);
    return { state: namedState({ random }), run: compile(() => random.dropout(ones([32]), 0.5)) };
  };
  const [whole, resumed] = [make(), make()];
  await whole.run();
  const saved = await storedTensors(whole.state);
  expect(Object.keys(saved)).toEqual(["random.state"]);
  restoreParameters(resumed.state, saved, "here");
  expect(await values(await resumed.run())).toEqual(await values(await whole.run()));
});
