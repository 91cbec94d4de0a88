import { createStyle, isTerminal, type Style } from "./terminal-style.js";
import { fitLine, formatDuration, formatNumber } from "./terminal-text.js";

interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface ProgressOptions {
  /** Where to draw; stderr by default, so that stdout stays clean for results. */
  readonly stream?: ProgressStream;
  /** Print warnings only. */
  readonly quiet?: boolean;
  readonly env?: NodeJS.ProcessEnv;
  /** Milliseconds on a monotonic clock. */
  readonly now?: () => number;
}

/** Values shown beside the bar: numbers are rounded to four digits. */
export type ProgressValues = Readonly<Record<string, number | string>>;

export interface StageOptions {
  /** Amount of work; without it the stage shows a count but no bar and no time left. */
  readonly total?: number;
  /** Work already done before this process, which must not count towards the rate. */
  readonly done?: number;
  /** Plural name of the work: "steps", "tensors". */
  readonly unit?: string;
}

/** One piece of long work. Ends by `succeed` or `fail`, once; later calls are ignored. */
export interface Stage {
  update(done: number, values?: ProgressValues): void;
  /** Check mark, elapsed time, and `message` if there is one. */
  succeed(message?: string): void;
  fail(message?: string): void;
}

export interface Progress {
  /** Starts a stage; a stage still open is ended as succeeded. */
  stage(title: string, options?: StageOptions): Stage;
  /** A line that stays. */
  log(message: string): void;
  /** A line that stays, shown even when quiet. */
  warn(message: string): void;
  /** Ends an open stage as not finished and releases the terminal. */
  close(): void;
}

const REDRAW_INTERVAL = 100;
const RATE_WINDOW = 20_000;

/** A live line with rate and time left on a terminal, plain lines at growing intervals elsewhere. */
export function createProgress(options: ProgressOptions = {}): Progress {
  return new StreamProgress(options);
}

class StreamProgress implements Progress {
  readonly stream: ProgressStream;
  readonly style: Style;
  readonly now: () => number;
  readonly live: boolean;
  readonly quiet: boolean;
  #open: RunningStage | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lineDrawn = false;

  constructor({
    stream = process.stderr,
    quiet = false,
    env = process.env,
    now = () => performance.now(),
  }: ProgressOptions) {
    this.stream = stream;
    this.quiet = quiet;
    this.now = now;
    this.style = createStyle(stream, env);
    this.live = isTerminal(stream, env) && !quiet;
  }

  stage(title: string, options: StageOptions = {}): Stage {
    this.#open?.succeed();
    const stage = new RunningStage(this, title, options);
    this.#open = stage;
    if (this.live) {
      this.redraw();
      this.#timer = setInterval(() => this.redraw(), REDRAW_INTERVAL);
      this.#timer.unref();
    } else {
      this.log(stage.startLine());
    }
    return stage;
  }

  log(message: string): void {
    if (!this.quiet) this.#print(message);
  }

  warn(message: string): void {
    this.#print(`${this.style("yellow", "warning:")} ${message}`);
  }

  close(): void {
    this.#open?.fail("not finished");
  }

  finish(stage: RunningStage, line: string): void {
    if (this.#open !== stage) return;
    this.#open = undefined;
    clearInterval(this.#timer);
    this.log(line);
  }

  redraw(): void {
    if (this.#open === undefined) return;
    const line = this.#open.liveLine(Math.max(20, (this.stream.columns ?? 80) - 1));
    // Return to column 0, write, erase the rest: one write, so the line never flickers.
    this.stream.write(`\r${line}\x1b[K`);
    this.#lineDrawn = true;
  }

  #print(line: string): void {
    const erase = this.#lineDrawn ? "\r\x1b[K" : "";
    this.#lineDrawn = false;
    this.stream.write(`${erase}${line}\n`);
    if (this.live) this.redraw();
  }
}

class RunningStage implements Stage {
  readonly #progress: StreamProgress;
  readonly #title: string;
  readonly #total: number | undefined;
  readonly #unit: string;
  readonly #startedAt: number;
  #done: number;
  #values: ProgressValues = {};
  #ended = false;
  /** Recent (time, done) pairs: the rate follows the last RATE_WINDOW milliseconds. */
  #history: { time: number; done: number }[];
  #lastPlainLine: number;

  constructor(progress: StreamProgress, title: string, { total, done = 0, unit = "steps" }: StageOptions) {
    this.#progress = progress;
    this.#title = title;
    this.#total = total;
    this.#unit = unit;
    this.#done = done;
    this.#startedAt = progress.now();
    this.#lastPlainLine = this.#startedAt;
    this.#history = [{ time: this.#startedAt, done }];
  }

  update(done: number, values: ProgressValues = this.#values): void {
    if (this.#ended) return;
    this.#done = done;
    this.#values = values;
    const time = this.#progress.now();
    const last = this.#history.at(-1);
    if (last === undefined || time - last.time >= REDRAW_INTERVAL) {
      this.#history.push({ time, done });
      while (this.#history.length > 2 && time - (this.#history[0]?.time ?? time) > RATE_WINDOW) this.#history.shift();
    }
    if (!this.#progress.live && time - this.#lastPlainLine >= plainInterval(time - this.#startedAt)) {
      this.#lastPlainLine = time;
      this.#progress.log(this.#plainLine(time));
    }
  }

  succeed(message?: string): void {
    this.#end(this.#progress.style("green", "✓"), message);
  }

  fail(message?: string): void {
    this.#end(this.#progress.style("red", "✗"), message);
  }

  startLine(): string {
    const from = this.#done > 0 ? ` from ${formatCount(this.#done)}` : "";
    return this.#total === undefined
      ? `${this.#title} …`
      : `${this.#title} … ${formatCount(this.#total)} ${this.#unit}${from}`;
  }

  liveLine(width: number): string {
    const { style, now } = this.#progress;
    const time = now();
    const frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏";
    const spinner = style("cyan", frames[Math.floor(time / REDRAW_INTERVAL) % frames.length] as string);
    const parts: string[] = [this.#title];
    if (this.#total !== undefined) parts.push(this.#bar(width));
    // Most important first: a narrow terminal drops from the end.
    parts.push(...this.#statusParts(time), ...this.#valueParts());
    return `${spinner} ${fitLine(parts, width - 2)}`;
  }

  #plainLine(time: number): string {
    return [this.#title, ...this.#statusParts(time), ...this.#valueParts()].join("  ");
  }

  #bar(width: number): string {
    const cells = width >= 100 ? 24 : width >= 60 ? 14 : 8;
    const fraction = this.#fraction();
    const filled = Math.round(fraction * cells);
    return this.#progress.style("cyan", "━".repeat(filled)) + this.#progress.style("dim", "─".repeat(cells - filled));
  }

  #fraction(): number {
    return this.#total === undefined || this.#total === 0 ? 1 : Math.min(1, Math.max(0, this.#done / this.#total));
  }

  #statusParts(time: number): string[] {
    const parts: string[] = [];
    if (this.#total === undefined) {
      if (this.#done > 0) parts.push(`${formatCount(this.#done)} ${this.#unit}`);
    } else {
      parts.push(`${formatCount(this.#done)}/${formatCount(this.#total)} ${this.#unit}`);
    }
    const rate = this.#rate(time);
    if (rate > 0) {
      if (this.#total !== undefined && this.#done < this.#total) {
        parts.push(`${formatDuration(((this.#total - this.#done) / rate) * 1000)} left`);
      }
      parts.push(rate >= 0.1 ? `${formatNumber(rate, 3)} ${this.#unit}/s` : `${formatDuration(1000 / rate)} each`);
    } else {
      parts.push(formatDuration(time - this.#startedAt));
    }
    return parts;
  }

  #valueParts(): string[] {
    const shown = Object.entries(this.#values);
    return shown.map(([name, value]) => `${name} ${typeof value === "number" ? formatNumber(value, 4) : value}`);
  }

  /** Work per second over the window, or 0 before any is known. */
  #rate(time: number): number {
    const oldest = this.#history[0];
    if (oldest === undefined || this.#done <= oldest.done) return 0;
    const newest = this.#history.at(-1);
    // While work goes on without an update (a long step), the rate must not fall to a stale value at once.
    const until = newest !== undefined && newest.done === this.#done && newest.time > oldest.time ? newest.time : time;
    return until > oldest.time ? ((this.#done - oldest.done) * 1000) / (until - oldest.time) : 0;
  }

  #end(mark: string, message: string | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    const elapsed = this.#progress.style("dim", formatDuration(this.#progress.now() - this.#startedAt));
    const values = message ?? this.#valueParts().join("  ");
    this.#progress.finish(this, [`${mark} ${this.#title}`, values, elapsed].filter((part) => part !== "").join("  "));
  }
}

/** Milliseconds between plain lines: frequent at first, to show life; rarer later, to keep logs short. */
function plainInterval(elapsed: number): number {
  if (elapsed < 60_000) return 5_000;
  return elapsed < 600_000 ? 30_000 : 60_000;
}

function formatCount(count: number): string {
  return Number.isInteger(count) ? count.toLocaleString("en-US") : formatNumber(count, 4);
}
