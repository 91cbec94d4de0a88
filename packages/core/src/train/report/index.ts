export { renderReport, writeReport } from "./render.js";
export type {
  Axis,
  BarsSection,
  Fact,
  HeatmapSection,
  ImagesSection,
  LineSeries,
  LinesSection,
  NoteSection,
  Report,
  Section,
  TableColumn,
  TableSection,
  TextSection,
  TokensSection,
} from "./sections.js";
export { markdownTable, type TextTable, terminalTable } from "./tables.js";
