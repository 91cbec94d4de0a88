export { renderReport, writeReport } from "./render.js";
export type {
  Axis,
  BarsSection,
  Fact,
  HeatmapSection,
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
