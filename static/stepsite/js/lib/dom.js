// @ts-check
// Making and changing elements. Text only ever goes in as text.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id, which the page is known to hold.
 * @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page has no #${id}.`);
  return found;
}

/** @param {ParentNode} parent @param {string} selector @returns {HTMLElement} */
export function one(parent, selector) {
  const found = parent.querySelector(selector);
  if (!(found instanceof HTMLElement)) throw new Error(`There is no ${selector}.`);
  return found;
}

/** @param {string} tag @param {Record<string, string>} [attributes] @param {(Node | string)[]} children
 * @returns {HTMLElement} */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {string} name @param {Record<string, string | number>} attributes @param {Node[]} children */
export function makeSvg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/** A decorative icon of the sprite.
 * @param {string} name @param {number} [size] */
export function icon(name, size = 16) {
  const use = makeSvg("use", { href: `#i-${name}` });
  return makeSvg("svg", { class: "icon", width: size, height: size, "aria-hidden": "true" }, use);
}

/** The silhouette of a status; `label` for when no word stands beside it.
 * @param {string} status @param {number} [size] @param {string} [label] */
export function glyph(status, size = 18, label = "") {
  const use = makeSvg("use", { href: `#g-${status}` });
  const svg = makeSvg("svg", { class: "glyph", width: size, height: size }, use);
  setGlyph(svg, status, label);
  return svg;
}

/** @param {Element} svg @param {string} status @param {string} [label] */
export function setGlyph(svg, status, label = "") {
  svg.setAttribute("data-status", status);
  svg.firstElementChild?.setAttribute("href", `#g-${status}`);
  if (label) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
  } else {
    svg.setAttribute("aria-hidden", "true");
  }
}

/** Writes only what differs: every needless write costs a layout.
 * @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {Element} element @param {string} name @param {string | null} value */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** @param {Element} element @param {boolean} isHidden */
export function setHidden(element, isHidden) {
  if (element.hasAttribute("hidden") !== isHidden) element.toggleAttribute("hidden", isHidden);
}

/** A name with places where it may be broken: after punctuation and where words meet.
 * @param {string} name @returns {Node[]} */
export function breakable(name) {
  const parts = name.split(/(?<=[-_.:/])|(?<=[a-z0-9])(?=[A-Z])/);
  return parts.flatMap((part, at) =>
    at
      ? [document.createElement("wbr"), document.createTextNode(part)]
      : [document.createTextNode(part)],
  );
}
