// @ts-check

const OVERSCAN = 2;
/** Lists that are no longer than this are drawn whole: for print, and for finding in the page. */
const DRAWN_WHOLE = 30;

/** Draws only those of many rows of one height that can be seen, and reuses their elements.
 *
 * The page scrolls, not the list. Elements keep their place in the document in the order of the
 * rows, so reading and tabbing follow what is seen; the one with the focus is never moved.
 */
export class WindowedList {
  /** @type {Map<number, HTMLElement>} Elements by the key of their row. */
  #shown = new Map();
  /** @type {HTMLElement[]} */
  #spare = [];
  #rowHeight = 44;
  /** @type {number[]} */
  #keys = [];

  /** @param {HTMLElement} place
   * @param {{make: () => HTMLElement, patch: (row: HTMLElement, key: number) => void}} rows */
  constructor(place, rows) {
    this.place = place;
    this.rows = rows;
    place.replaceChildren();
    place.classList.add("windowed");
    const redraw = () => this.draw(this.#keys, false);
    addEventListener("scroll", redraw, { passive: true });
    addEventListener("resize", () => {
      this.#measure();
      redraw();
    });
    this.#measure();
  }

  #measure() {
    const height = getComputedStyle(this.place).getPropertyValue("--row-height");
    this.#rowHeight = parseFloat(height) || 44;
  }

  /** Elements that are drawn, with the keys of their rows. */
  get shown() {
    return this.#shown.entries();
  }

  /** @param {number[]} keys All rows in order. @param {boolean} [isChanged] Rows may look different. */
  draw(keys, isChanged = true) {
    this.#keys = keys;
    const height = `${keys.length * this.#rowHeight}px`;
    if (this.place.style.height !== height) this.place.style.height = height;
    const [first, last] = this.#range(keys.length);
    const wanted = keys.slice(first, last);
    const focused = this.#focusedKey();
    this.#discard(new Set(wanted), focused);
    wanted.forEach((key, offset) => {
      const known = this.#shown.get(key);
      const row = known ?? this.#take(key);
      this.#put(row, first + offset);
      if (!known || isChanged) this.rows.patch(row, key);
    });
    this.#arrange(wanted, focused);
  }

  /** Scroll so that the row stands in the middle.
   * @param {number} key */
  reveal(key) {
    const at = this.#keys.indexOf(key);
    if (at === -1) return;
    const top = this.place.getBoundingClientRect().top + scrollY + at * this.#rowHeight;
    scrollTo({ top: top - innerHeight / 2 });
  }

  /** Places of the first row that is drawn and of the first one after it that is not.
   * @param {number} count @returns {[number, number]} */
  #range(count) {
    if (count <= DRAWN_WHOLE) return [0, count];
    const top = this.place.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / this.#rowHeight) - OVERSCAN);
    const last = Math.ceil((innerHeight - top) / this.#rowHeight) + OVERSCAN;
    return [first, Math.max(first, Math.min(count, last))];
  }

  #focusedKey() {
    const row = document.activeElement?.closest("[data-step-run]");
    if (!row || !this.place.contains(row)) return undefined;
    for (const [key, element] of this.#shown) if (element === row) return key;
    return undefined;
  }

  /** @param {Set<number>} wanted @param {number | undefined} focused */
  #discard(wanted, focused) {
    for (const [key, row] of this.#shown) {
      // A row that lost its element would take the focus with it.
      if (wanted.has(key) || key === focused) continue;
      row.remove();
      this.#spare.push(row);
      this.#shown.delete(key);
    }
  }

  /** @param {number} key */
  #take(key) {
    const row = this.#spare.pop() ?? this.rows.make();
    this.#shown.set(key, row);
    return row;
  }

  /** @param {HTMLElement} row @param {number} at */
  #put(row, at) {
    row.style.transform = `translateY(${at * this.#rowHeight}px)`;
    row.setAttribute("aria-rowindex", String(at + 2));
  }

  /** @param {number[]} wanted @param {number | undefined} focused */
  #arrange(wanted, focused) {
    const rows = wanted.map((key) => /** @type {HTMLElement} */ (this.#shown.get(key)));
    const kept = focused === undefined ? undefined : this.#shown.get(focused);
    const at = kept ? rows.indexOf(kept) : -1;
    if (kept && at === -1) {
      const place = this.#keys.indexOf(/** @type {number} */ (focused));
      if (place !== -1) this.#put(kept, place);
    }
    if (rows.every((row, index) => this.place.children[index] === row)) return;
    rows.forEach((row, index) => {
      if (row === kept) return;
      if (index < at) this.place.insertBefore(row, kept ?? null);
      else this.place.append(row);
    });
  }
}
