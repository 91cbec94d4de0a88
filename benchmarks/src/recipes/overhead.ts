import { compile, defaultDevice, Parameter } from "@trefoil/core";
import type { Case } from "../measure/side.js";

/** A step that does next to nothing: what every call costs. */
function emptyStep(name: string, enqueue: (step: () => Promise<unknown>, repetitions: number) => Promise<void>): Case {
  return {
    family: "overhead",
    name,
    unit: "calls/s",
    amount: 1,
    async open() {
      const counter = new Parameter([], { trainable: false });
      const step = compile(() => counter.assign(counter.add(1)));
      return {
        side: {
          name: "trefoil",
          async run(repetitions) {
            const begun = performance.now();
            await enqueue(step, repetitions);
            return { seconds: (performance.now() - begun) / 1000 / repetitions };
          },
        },
        close: () => counter.dispose(),
      };
    },
    torch: { kernel: "empty_step" },
  };
}

/** One way into the addon and back: reading the memory counters. */
const crossing: Case = {
  family: "overhead",
  name: "addon crossing",
  unit: "calls/s",
  amount: 1,
  async open() {
    const device = defaultDevice();
    // Enough crossings in one repetition that the clock and the loop around it do not count.
    const crossings = 1000;
    return {
      side: {
        name: "trefoil",
        async run(repetitions) {
          const begun = performance.now();
          for (let i = 0; i < repetitions * crossings; i++) device.memory();
          return { seconds: (performance.now() - begun) / 1000 / repetitions / crossings };
        },
      },
    };
  },
};

/** Runs enqueued before the first of them is awaited. */
const ahead = 16;

/** The cost of a call: a step awaited before the next, steps enqueued ahead, and a plain crossing. */
export const overheadCases = (): Case[] => [
  emptyStep("empty step, awaited", async (step, repetitions) => {
    for (let i = 0; i < repetitions; i++) await step();
  }),
  emptyStep(`empty step, ${ahead} enqueued ahead`, async (step, repetitions) => {
    const inFlight: Promise<unknown>[] = [];
    for (let i = 0; i < repetitions; i++) {
      inFlight.push(step());
      if (inFlight.length > ahead) await inFlight.shift();
    }
    await Promise.all(inFlight);
  }),
  crossing,
];
