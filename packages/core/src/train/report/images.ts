import { html, type Markup } from "./markup.js";
import type { ImagesSection } from "./sections.js";

/** Pictures in rows that wrap, each with its label. */
export function renderImages({ images, size = 96 }: ImagesSection): Markup {
  const figures = images.map(({ png, alt, label }) => {
    const data = Buffer.from(png.buffer, png.byteOffset, png.byteLength).toString("base64");
    const under = label === undefined ? undefined : html`<figcaption>${label}</figcaption>`;
    return html`<figure style="width:${Math.round(size)}px"><img src="data:image/png;base64,${data}" alt="${alt}" width="${Math.round(size)}">${under}</figure>`;
  });
  return html`<div class="images">${figures}</div>`;
}
