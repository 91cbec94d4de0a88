/** What every section may have. */
interface SectionBase {
  readonly title?: string;
  /** A sentence under the title. */
  readonly caption?: string;
  /** Charts take half of a wide page by default, the rest all of it. */
  readonly width?: "half" | "full";
}

export interface Axis {
  readonly label: string;
  readonly unit?: string;
  readonly scale?: "linear" | "log";
}

export interface LineSeries {
  readonly name: string;
  readonly x: ArrayLike<number>;
  /** A value that is not finite interrupts the line. */
  readonly y: ArrayLike<number>;
  /** Weight of the past in an exponential moving average, 0 to 1; the raw values stay behind it as a faint line. */
  readonly smooth?: number;
}

export interface LinesSection extends SectionBase {
  readonly kind: "lines";
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly LineSeries[];
}

export interface BarsSection extends SectionBase {
  readonly kind: "bars";
  readonly y: Axis;
  readonly categories: readonly string[];
  /** One bar for each category and series; null leaves a gap. */
  readonly series: readonly { readonly name: string; readonly values: readonly (number | null)[] }[];
}

export interface HeatmapSection extends SectionBase {
  readonly kind: "heatmap";
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly rowLabel?: string;
  readonly columnLabel?: string;
  /** Small multiples over the same rows and columns, such as one for each layer. `values` is [rows][columns]. */
  readonly panels: readonly { readonly title?: string; readonly values: readonly (readonly number[])[] }[];
  readonly value: { readonly label: string; readonly unit?: string; readonly format?: "number" | "percent" };
  /** Ends of the colour scale; those of the data by default. */
  readonly range?: readonly [low: number, high: number];
  /** A neutral value, such as 1 / experts: below it one hue, above it another. */
  readonly midpoint?: number;
}

export interface TableColumn {
  readonly label: string;
  readonly unit?: string;
  /** Marks the best number of the column. */
  readonly best?: "lowest" | "highest";
}

export interface TableSection extends SectionBase {
  readonly kind: "table";
  readonly columns: readonly TableColumn[];
  /** Numbers are aligned right and rounded to four digits; null is a dash. */
  readonly rows: readonly (readonly (string | number | null)[])[];
}

export interface TextSection extends SectionBase {
  readonly kind: "text";
  /** Shown as it is, in a fixed-width font: a configuration, a generated text. */
  readonly text: string;
  /** Hide behind the title until opened. */
  readonly collapsed?: boolean;
}

export interface TokensSection extends SectionBase {
  readonly kind: "tokens";
  /** Names of the groups that tokens are coloured by, such as experts. */
  readonly groups: readonly string[];
  readonly samples: readonly {
    readonly title?: string;
    /** `weight`, 0 to 1, such as a routing probability, sets the strength of the colour. */
    readonly tokens: readonly { readonly text: string; readonly group: number; readonly weight?: number }[];
  }[];
}

export interface ImagesSection extends SectionBase {
  readonly kind: "images";
  readonly images: readonly {
    /** A whole PNG file; the page holds a copy. */
    readonly png: Uint8Array;
    /** What the picture shows, for those who cannot see it. */
    readonly alt: string;
    /** Stands under the picture. */
    readonly label?: string;
  }[];
  /** Width on the page in pixels; small pictures keep their pixels visible. 96 by default. */
  readonly size?: number;
}

export interface NoteSection extends SectionBase {
  readonly kind: "note";
  readonly tone?: "info" | "warning";
  /** Paragraphs, separated by an empty line. */
  readonly text: string;
}

export type Section =
  | LinesSection
  | BarsSection
  | HeatmapSection
  | TableSection
  | TextSection
  | TokensSection
  | ImagesSection
  | NoteSection;

/** A number at the head of the report: "final loss 2.31 nats". */
export interface Fact {
  readonly label: string;
  readonly value: string | number;
  readonly unit?: string;
}

export interface Report {
  readonly title: string;
  readonly subtitle?: string;
  readonly facts?: readonly Fact[];
  readonly sections: readonly Section[];
}
