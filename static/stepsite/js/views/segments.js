// @ts-check
import { makeSvg, setAttribute, setText } from "../lib/dom.js";
import { inWords, SEGMENTS, word } from "../lib/words.js";

/** Per cent of the bar: one failure among ten thousand steps must still be seen. */
const NARROWEST = 1.2;

/** Draws a progress bar into `place`, or changes the one that is there.
 * @param {Element} place @param {Record<string, number>} counts */
export function drawSegments(place, counts) {
  let svg = place.querySelector("svg");
  if (!svg) {
    svg = /** @type {SVGSVGElement} */ (makeSvg("svg", { class: "seg", role: "img" }));
    place.append(svg);
  }
  setAttribute(svg, "aria-label", inWords(counts));
  const present = SEGMENTS.filter((status) => counts[status]);
  const total = present.reduce((sum, status) => sum + counts[status], 0);
  const widths = present.map((status) => Math.max((counts[status] / total) * 100, NARROWEST));
  const scale = 100 / widths.reduce((sum, width) => sum + width, 0);
  let start = 0;
  present.forEach((status, index) => {
    const bar = svg.children[index] ?? svg.appendChild(emptyBar());
    const width = widths[index] * scale;
    setAttribute(bar, "data-status", status);
    setAttribute(bar, "x", `${start.toFixed(3)}%`);
    setAttribute(bar, "width", `${width.toFixed(3)}%`);
    if (bar.firstElementChild) {
      setText(bar.firstElementChild, `${word(status)}: ${counts[status]}`);
    }
    start += width;
  });
  while (svg.children.length > present.length) svg.lastElementChild?.remove();
}

function emptyBar() {
  return makeSvg("rect", { height: "100%", rx: 3 }, makeSvg("title", {}));
}
