/** Something that was left out, and why. */
export interface Problem {
  /** File, or tar and member. */
  where: string;
  reason: string;
}

/** Counts what is left out, by reason, and keeps the first thousand for the list. */
export class Problems {
  static readonly listed = 1000;
  readonly counts = new Map<string, number>();
  readonly list: Problem[] = [];

  add(where: string, reason: string): void {
    this.counts.set(reason, (this.counts.get(reason) ?? 0) + 1);
    if (this.list.length < Problems.listed) this.list.push({ where: where.slice(0, 500), reason });
  }

  get total(): number {
    return [...this.counts.values()].reduce((sum, count) => sum + count, 0);
  }

  /** "12 left out: 10 × not an image, 2 × empty caption" */
  toString(): string {
    const parts = [...this.counts].sort((a, b) => b[1] - a[1]).map(([reason, count]) => `${count} × ${reason}`);
    return `${this.total} left out: ${parts.join(", ")}`;
  }
}

const longestCaption = 2000;

/** Captions fit to train on: text, neither empty nor longer than 2,000 characters; whitespace is made single spaces. */
export function usableCaptions(captions: readonly unknown[], where: string, problems: Problems): string[] {
  return captions.flatMap((caption) => {
    if (typeof caption !== "string") problems.add(where, "caption is not text");
    // Before any work on it: a caption of megabytes is not worth normalising.
    else if (caption.length > longestCaption) problems.add(where, `caption longer than ${longestCaption} characters`);
    else {
      const text = caption.replace(/\s+/g, " ").trim();
      if (text !== "") return [text];
      problems.add(where, "empty caption");
    }
    return [];
  });
}
