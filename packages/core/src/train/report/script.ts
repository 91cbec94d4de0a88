/**
 * What makes the page answer to a pointer: a cursor with values on line charts (arrow keys work too), the text of
 * `data-tip` elsewhere. Text is set as text, never as markup. Without scripts the page only loses its tooltips.
 */
export const SCRIPT = `
"use strict";
const tooltip = document.getElementById("tooltip");

function place(x, y) {
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
  tooltip.style.left = Math.max(8, left) + "px";
  tooltip.style.top = Math.max(8, Math.min(innerHeight - height - 8, y - height / 2)) + "px";
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function nearestIndex(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - points[low - 1][0] < points[low][0] - x ? low - 1 : low;
}

for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(document.getElementById(svg.dataset.chart).textContent);
  const series = data.series.filter(({ points }) => points.length > 0);
  const cursor = svg.querySelector(".cursor");
  const line = cursor.querySelector("line");
  const dots = series.map(({ colour }) => {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("r", "4");
    dot.style.fill = colour;
    cursor.append(dot);
    return dot;
  });
  let current = 0;

  function show(x, clientY) {
    const found = series.map(({ points }) => points[nearestIndex(points, x)]);
    const closest = found.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    current = closest[0];
    line.setAttribute("x1", current);
    line.setAttribute("x2", current);
    tooltip.replaceChildren(element("div", "at", data.x + " " + closest[2]));
    series.forEach(({ name, colour }, i) => {
      const near = Math.abs(found[i][0] - current) < 4;
      dots[i].style.display = near ? "" : "none";
      if (!near) return;
      dots[i].setAttribute("cx", found[i][0]);
      dots[i].setAttribute("cy", found[i][1]);
      const row = element("div", "row");
      const swatch = element("span", "swatch");
      swatch.style.setProperty("--colour", colour);
      row.append(swatch, element("span", "", name), element("b", "", found[i][3]));
      if (found[i][4] !== undefined) row.append(element("i", "", "raw " + found[i][4]));
      tooltip.append(row);
    });
    cursor.setAttribute("visibility", "visible");
    const box = svg.getBoundingClientRect();
    place(box.left + (current / data.width) * box.width, clientY ?? box.top + box.height / 2);
  }

  function hide() {
    cursor.setAttribute("visibility", "hidden");
    tooltip.hidden = true;
  }

  if (series.length === 0) continue;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * data.width, event.clientY);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (direction === undefined) return;
    event.preventDefault();
    const points = series[0].points;
    const next = nearestIndex(points, current) + direction;
    show(points[Math.max(0, Math.min(points.length - 1, next))][0]);
  });
}

document.addEventListener("pointerover", (event) => {
  const target = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  if (target === null) {
    if (!(event.target instanceof Element && event.target.closest("[data-chart]"))) tooltip.hidden = true;
    return;
  }
  tooltip.replaceChildren(element("div", "", target.dataset.tip));
  place(event.clientX, event.clientY);
});
`;
