import { expect, it } from "vitest";
import { AdamW, InvalidUseError, Parameter } from "../../src/index.js";

it("AdamW takes each parameter once: twice, its gradient would count twice in the norm", () => {
  const shared = new Parameter([2]);
  expect(() => new AdamW([shared, new Parameter([2]), shared], { learningRate: 0.1 })).toThrow(InvalidUseError);
});
