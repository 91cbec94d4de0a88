/**
 * The series colours were found by search: the least OKLab distance (times 100) of any two, over normal sight and
 * simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009), is at least 13 for the first four, 12 for
 * six and 6.5 for all eight, in both themes.
 */
export const CSS = `
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --surface: #ffffff; --border: #e4e3df; --grid: #ecebe8; --axis: #b9b7b0;
  --ink: #1d1d1b; --soft: #55534e; --muted: #77756e; --accent: #0f62ae;
  --series-1: #5775e3; --series-2: #983100; --series-3: #2dbaa4; --series-4: #946086;
  --series-5: #c69120; --series-6: #4c44b2; --series-7: #379bb8; --series-8: #5d5750;
  --heat-low: #eef3f9; --heat-high: #124e8f; --heat-middle: #f1f0ec; --heat-below: #c2570f; --heat-ink: #ffffff;
  --warning: #9a5b00; --warning-surface: #fdf4e3; --info-surface: #eef4fb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --surface: #1b1d20; --border: #2e3136; --grid: #292c30; --axis: #565a61;
    --ink: #ececea; --soft: #bdbcb8; --muted: #92928e; --accent: #7db8f2;
    --series-1: #7db1f8; --series-2: #df6b0f; --series-3: #a7e7d3; --series-4: #9f6d93;
    --series-5: #d9b26c; --series-6: #7d7cf1; --series-7: #7ad3fa; --series-8: #bbbbbb;
    --heat-low: #20262e; --heat-high: #79bbf7; --heat-middle: #26282b; --heat-below: #ee9152; --heat-ink: #0d1520;
    --warning: #f0c069; --warning-surface: #2c2415; --info-surface: #1a2531;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 1160px; margin: 0 auto; padding: 44px 20px 72px; }
h1 { margin: 0; font-size: 27px; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; text-wrap: balance; }
h2 { margin: 0; font-size: 15px; line-height: 1.4; font-weight: 620; }
h3 { margin: 16px 0 6px; font-size: 13px; font-weight: 600; color: var(--soft); }
header { margin-bottom: 28px; }
.subtitle { margin: 8px 0 0; color: var(--muted); overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 26px 0 0; }
.facts div { display: flex; flex-direction: column-reverse; }
.facts dt { font-size: 12.5px; color: var(--muted); }
.facts dd { margin: 0; font-size: 23px; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }
.facts .unit { font-size: 14px; font-weight: 400; color: var(--muted); letter-spacing: 0; }
.sections { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
section {
  grid-column: 1 / -1; min-width: 0; padding: 18px 20px 18px;
  background: var(--surface); border: 1px solid var(--border); border-radius: 10px;
}
section.half { grid-column: span 1; }
section.note-section { padding: 0; border: 0; background: none; }
@media (max-width: 820px) { section.half { grid-column: 1 / -1; } main { padding: 28px 12px 48px; } section { padding: 14px; } }
.section-head { margin-bottom: 12px; }
.caption { margin: 2px 0 0; font-size: 13px; line-height: 1.5; color: var(--muted); max-width: 96ch; text-wrap: pretty; }
.empty { color: var(--muted); margin: 0; }
svg { display: block; width: 100%; height: auto; font-size: 11px; overflow: visible; }
svg:focus { outline: none; }
svg:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 4px; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--axis); }
.tick, .axis-label, .value { fill: var(--muted); }
.category { fill: var(--soft); }
.value { font-size: 10px; }
.line { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1; opacity: 0.28; }
.bar:hover, .cell:hover { opacity: 0.85; }
.cursor line { stroke: var(--axis); }
.cursor circle { stroke: var(--surface); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0 0 10px; padding: 0; list-style: none; font-size: 12.5px; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 7px; }
.swatch { width: 12px; height: 3px; border-radius: 2px; background: var(--colour); flex: none; }
.swatch.dashed { background: repeating-linear-gradient(90deg, var(--colour) 0 5px, transparent 5px 7px); }
.bars-section .swatch, .tokens-section .swatch { width: 10px; height: 10px; }
.panels { display: flex; flex-wrap: wrap; gap: 18px 28px; }
.panel { margin: 0; flex: 0 1 auto; width: 100%; }
.panel figcaption { font-size: 12.5px; font-weight: 600; color: var(--soft); margin-bottom: 4px; }
.cell-value { fill: var(--ink); font-size: 10.5px; pointer-events: none; }
.cell-value.strong { fill: var(--heat-ink); }
.key { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 8px; margin-bottom: 14px; font-size: 12.5px; color: var(--muted); }
.key > :first-child { color: var(--soft); margin-right: 4px; }
.ramp { width: 132px; height: 8px; border-radius: 4px; background: linear-gradient(90deg in oklab, var(--heat-low), var(--heat-high)); }
.ramp.diverging { background: linear-gradient(90deg in oklab, var(--start), var(--heat-middle) var(--middle), var(--heat-high)); }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-size: 12.5px; font-weight: 600; color: var(--muted); white-space: nowrap; }
th .unit { font-weight: 400; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--grid); }
th:last-child, td:last-child { padding-right: 0; }
thead th { border-bottom-color: var(--border); }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.best { font-weight: 650; color: var(--accent); }
pre, .tokens { font: 12.5px/1.65 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre { padding: 12px 14px; background: var(--page); border-radius: 7px; max-height: 520px; overflow: auto; }
.tokens { line-height: 2; }
.token { padding: 1px 0 2px; background: color-mix(in srgb, var(--colour) var(--strength), transparent); border-bottom: 2px solid var(--colour); border-radius: 2px 2px 0 0; box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.token + .token { margin-left: 1px; }
.images { display: flex; flex-wrap: wrap; gap: 10px 12px; }
.images figure { margin: 0; max-width: 100%; }
.images img { display: block; width: 100%; height: auto; border-radius: 4px; image-rendering: pixelated; }
.images figcaption { margin-top: 4px; font-size: 12px; line-height: 1.4; color: var(--soft); overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--accent); font-size: 13px; }
details[open] summary { margin-bottom: 10px; }
.note { padding: 12px 16px; border-radius: 7px; background: var(--info-surface); border-left: 3px solid var(--accent); }
.note.warning { background: var(--warning-surface); border-left-color: var(--warning); }
.note p { margin: 0; max-width: 84ch; }
.note p + p { margin-top: 8px; }
#tooltip {
  position: fixed; z-index: 1; pointer-events: none; max-width: 320px; padding: 7px 10px; font-size: 12.5px; line-height: 1.5;
  color: var(--ink); background: var(--surface); border: 1px solid var(--border); border-radius: 7px; box-shadow: 0 4px 14px rgb(0 0 0 / 0.14);
}
#tooltip[hidden] { display: none; }
#tooltip .at { color: var(--muted); }
#tooltip .row { display: flex; align-items: center; gap: 7px; }
#tooltip .row b { margin-left: auto; padding-left: 14px; font-weight: 600; }
#tooltip .row i { font-style: normal; color: var(--muted); }
@media print { body { background: none; } section { break-inside: avoid; } #tooltip { display: none; } }
`;
