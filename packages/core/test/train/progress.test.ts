import { stripVTControlCharacters } from "node:util";
import { expect, test } from "vitest";
import { createProgress } from "../../src/train/index.js";
import { displayWidth, fitLine, formatDuration, formatNumber } from "../../src/train/terminal-text.js";

function recorder(options: { isTTY?: boolean; columns?: number; quiet?: boolean; env?: NodeJS.ProcessEnv } = {}) {
  const clock = { time: 0 };
  const chunks: string[] = [];
  const stream = {
    write: (text: string) => chunks.push(text),
    isTTY: options.isTTY ?? false,
    columns: options.columns ?? 80,
  };
  const progress = createProgress({
    stream,
    env: options.env ?? {},
    now: () => clock.time,
    quiet: options.quiet ?? false,
  });
  return { clock, chunks, stream, progress };
}

test("without a terminal: whole lines, at growing intervals, no escape codes", () => {
  const { clock, chunks, progress } = recorder();
  const stage = progress.stage("train", { total: 1000 });
  for (let step = 1; step <= 200; step++) {
    clock.time += 1000;
    stage.update(step, { loss: 2.34567, "tok/s": 123456 });
  }
  stage.succeed();
  progress.log("saved");
  expect(chunks[0]).toBe("train … 1,000 steps\n");
  expect(chunks[1]).toBe("train  5/1,000 steps  16m 35s left  1 steps/s  loss 2.346  tok/s 123.5k\n");
  // Every 5 s for the first minute, then every 30 s.
  expect(chunks.filter((line) => line.includes(" left "))).toHaveLength(11 + 4);
  expect(chunks.slice(-2)).toEqual(["✓ train  loss 2.346  tok/s 123.5k  3m 20s\n", "saved\n"]);
});

test("a resumed stage does not count the steps before it into the rate", () => {
  const { clock, chunks, progress } = recorder();
  const stage = progress.stage("train", { total: 1000, done: 900 });
  clock.time = 10_000;
  stage.update(910);
  expect(chunks).toEqual(["train … 1,000 steps from 900\n", "train  910/1,000 steps  1m 30s left  1 steps/s\n"]);
});

test("on a terminal: one line, redrawn in place, never wider than the terminal, log lines above it", () => {
  const { clock, chunks, stream, progress } = recorder({ isTTY: true, columns: 60, env: { NO_COLOR: "1" } });
  const stage = progress.stage("finetune", { total: 100 });
  clock.time = 2000;
  stage.update(50, { loss: 1.5, "a long value": "x".repeat(50) });
  progress.log("note");
  expect(chunks[0]).toBe("\r⠋ finetune  ────────  0/100 steps  0ms\x1b[K");
  expect(chunks[1]).toBe("\r\x1b[Knote\n");
  expect(chunks[2]).toBe("\r⠋ finetune  ━━━━────  50/100 steps  2.0s left  25 steps/s\x1b[K");
  stream.columns = 30;
  progress.log("narrow");
  const narrow = stripVTControlCharacters((chunks.at(-1) as string).slice(1));
  expect(displayWidth(narrow)).toBeLessThan(30);
  stage.succeed("loss 1.5");
  stage.update(99);
  stage.fail();
  expect(chunks.at(-1)).toBe("\r\x1b[K✓ finetune  loss 1.5  2.0s\n");
  progress.close();
});

test("colour only on a terminal without NO_COLOR", () => {
  const coloured = recorder({ isTTY: true });
  coloured.progress.warn("hot");
  expect(coloured.chunks).toEqual(["\x1b[33mwarning:\x1b[39m hot\n"]);
  for (const options of [
    { isTTY: true, env: { NO_COLOR: "1" } },
    { isTTY: false },
    { isTTY: true, env: { TERM: "dumb" } },
  ]) {
    const plain = recorder(options);
    plain.progress.warn("hot");
    expect(plain.chunks).toEqual(["warning: hot\n"]);
  }
});

test("quiet shows warnings only; an open stage is closed as not finished", () => {
  const quiet = recorder({ quiet: true, isTTY: true, env: { NO_COLOR: "1" } });
  quiet.progress.stage("train").update(1);
  quiet.progress.warn("careful");
  quiet.progress.close();
  expect(quiet.chunks).toEqual(["warning: careful\n"]);
  const open = recorder();
  open.progress.stage("train");
  open.progress.close();
  expect(open.chunks.at(-1)).toBe("✗ train  not finished  0ms\n");
});

test("starting a stage ends the one before", () => {
  const { chunks, progress } = recorder();
  progress.stage("one");
  progress.stage("two").succeed();
  expect(chunks).toEqual(["one …\n", "✓ one  0ms\n", "two …\n", "✓ two  0ms\n"]);
});

test("numbers, durations and widths", () => {
  expect(
    [0, 3, 2.34567, 1234.5, 12345, 9.99e6, 5.6e-5, -0.25, Number.NaN].map((value) => formatNumber(value, 4)),
  ).toEqual(["0", "3", "2.346", "1235", "12.35k", "9.99M", "5.6e-5", "-0.2500", "NaN"]);
  expect([850, 12_300, 59_960, 245_000, 7_800_000, 273_600_000].map(formatDuration)).toEqual([
    "850ms",
    "12.3s",
    "1m 00s",
    "4m 05s",
    "2h 10m",
    "3d 4h",
  ]);
  expect([displayWidth("\x1b[31mab\x1b[39m"), displayWidth("訓練"), displayWidth("é")]).toEqual([2, 4, 1]);
  expect(fitLine(["abc", "defg", "h"], 9)).toBe("abc  defg");
  expect(fitLine(["abcdef", "x"], 4)).toBe("abc…");
});
