// @ts-check
import { byId, glyph, make, setAttribute, setGlyph, setHidden, setText } from "../lib/dom.js";
import { duration, plural } from "../lib/format.js";
import { ATTENTION, lineOf, lower, word } from "../lib/words.js";
import { WindowedList } from "../lib/windowed.js";

const SORT_APART_MS = 300;
/** Rows that move under a pointer make people cancel the wrong one. */
const POINTER_RESTS_MS = 4000;
/** Where on the bar the usual duration is marked; run.css draws the mark. */
const USUAL_MARK = 0.75;

/** The list of steps, sorted by what needs attention. Rows are told apart by the step run's id. */
export class StepsView {
  /** @type {number[]} */
  #order = [];
  #sortedAt = -Infinity;
  #sortedVersion = -1;
  #movedAt = -Infinity;
  #sortTimer = 0;
  /** Status that alone is shown; empty: all. */
  #only = "";
  #search = "";

  /** @param {import("../lib/store.js").RunStore} store
   * @param {import("../lib/clock.js").Clock} clock
   * @param {{select: (index: number) => void, selected: () => number,
   *   cancel: (id: number) => void}} actions */
  constructor(store, clock, actions) {
    this.store = store;
    this.clock = clock;
    this.actions = actions;
    const place = byId("step-rows");
    this.list = new WindowedList(place, {
      make: makeRow,
      patch: (row, id) => this.#patch(row, id),
    });
    place.addEventListener("click", (event) => this.#click(event));
    place.addEventListener("pointermove", () => {
      this.#movedAt = performance.now();
    });
    place.addEventListener("pointerleave", () => {
      this.#movedAt = -Infinity;
    });
    byId("step-search").addEventListener("input", (event) => {
      this.#search = /** @type {HTMLInputElement} */ (event.target).value.trim().toLowerCase();
      this.#resort();
    });
    byId("first-miss").addEventListener("click", () => {
      const { firstMiss } = this.store.summary();
      if (firstMiss !== -1) this.actions.select(firstMiss);
    });
  }

  render() {
    if (this.#sortedVersion !== this.store.version) this.#sortOrWait();
    this.list.draw(this.#order);
    this.#renderChips();
    setHidden(byId("first-miss"), this.store.summary().firstMiss === -1);
    const shown = this.#order.length;
    const all = plural(this.store.size, "step");
    setText(byId("step-foot"), shown === this.store.size ? all : `${shown} of ${all}`);
    setAttribute(byId("step-table"), "aria-rowcount", String(shown + 1));
  }

  tick() {
    for (const [id, row] of this.list.shown) {
      const index = this.store.placeOf(id);
      if (this.store.get(index, "status") === "running") this.#patchTime(row, index);
    }
  }

  #sortOrWait() {
    const now = performance.now();
    const isHeld = now - this.#movedAt < POINTER_RESTS_MS;
    if (!isHeld && now - this.#sortedAt >= SORT_APART_MS) {
      this.#sort();
    } else if (!this.#sortTimer) {
      this.#sortTimer = setTimeout(() => {
        this.#sortTimer = 0;
        this.render();
      }, SORT_APART_MS);
    }
  }

  #sort() {
    this.#sortedAt = performance.now();
    this.#sortedVersion = this.store.version;
    const isAll = !this.#only && !this.#search;
    const sorted = this.store.sorted(isAll ? undefined : (index) => this.#isWanted(index));
    this.#order = sorted.map((index) => this.store.id(index));
  }

  #resort() {
    this.#sort();
    this.render();
  }

  /** @param {number} index */
  #isWanted(index) {
    if (this.#only && this.store.shown(index) !== this.#only) return false;
    if (!this.#search) return true;
    return String(this.store.get(index, "name")).toLowerCase().includes(this.#search);
  }

  #renderChips() {
    const { counts } = this.store.summary();
    const statuses = ["", ...ATTENTION.filter((status) => counts[status])];
    const place = byId("chips");
    statuses.forEach((status, at) => {
      const chip = place.children[at] ?? place.appendChild(this.#makeChip());
      const number = status ? counts[status] : this.store.size;
      setAttribute(chip, "data-chip", status);
      setAttribute(chip, "aria-pressed", String(this.#only === status));
      const [svg, label, count] = chip.children;
      setHidden(svg, !status);
      if (status) setGlyph(svg, status);
      setText(label, status ? word(status) : "All");
      setText(count, number.toLocaleString("en"));
    });
    while (place.children.length > statuses.length) place.lastElementChild?.remove();
  }

  #makeChip() {
    const chip = make("button", { type: "button", class: "filter-chip" });
    chip.append(glyph("pending", 16), make("span"), make("b", { class: "num" }));
    chip.addEventListener("click", () => {
      this.#only = chip.dataset.chip ?? "";
      this.#resort();
    });
    return chip;
  }

  /** @param {Event} event */
  #click(event) {
    const target = /** @type {Element} */ (event.target);
    const row = target.closest("[data-step-run]");
    if (!(row instanceof HTMLElement)) return;
    const id = Number(row.dataset.stepRun);
    if (target.closest("button")) {
      this.actions.cancel(id);
      return;
    }
    const { ctrlKey, metaKey, shiftKey } = /** @type {MouseEvent} */ (event);
    if (ctrlKey || metaKey || shiftKey) return;
    event.preventDefault();
    this.actions.select(this.store.placeOf(id));
  }

  /** @param {HTMLElement} row @param {number} id */
  #patch(row, id) {
    const index = this.store.placeOf(id);
    const { cells } = rowParts(row);
    const status = this.store.shown(index);
    const name = this.store.get(index, "name");
    setAttribute(row, "data-step-run", String(id));
    setAttribute(row, "aria-selected", this.actions.selected() === index ? "true" : null);
    const isHeld = this.store.get(index, "abandoned_at") && !this.store.isFinal;
    setAttribute(row, "data-abandoned", isHeld ? "" : null);
    if (row.dataset.status !== status) {
      row.dataset.status = status;
      setGlyph(cells.glyph, status);
      cells.word.data = word(status);
    }
    setText(cells.link, name);
    setAttribute(cells.link, "href", `?step=${id}`);
    const line = lineOf(this.store, index);
    setText(cells.line, line);
    setAttribute(cells.line, "title", line);
    this.#patchLane(cells.lane, index);
    this.#patchAction(cells.action, index, name);
    this.#patchTime(row, index);
  }

  /** @param {HTMLElement} cell @param {number} index */
  #patchLane(cell, index) {
    const isCritical = this.store.get(index, "lane") === "critical";
    const slot = this.store.get(index, "slot");
    setAttribute(cell, "data-critical", isCritical ? "" : null);
    setText(cell, isCritical ? "critical" : slot ? `slot ${slot}` : "pool");
  }

  /** @param {HTMLElement} cell @param {number} index @param {string} name */
  #patchAction(cell, index, name) {
    const isOffered = this.store.canCancel && this.store.isCancellable(index);
    const button = cell.firstElementChild;
    if (isOffered && !button) {
      cell.replaceChildren(make("button", { type: "button", class: "btn small" }, "Cancel"));
    } else if (!isOffered) {
      const isProtected = this.store.get(index, "protected");
      const isRunning = this.store.get(index, "status") === "running";
      setText(cell, isProtected && isRunning ? "protected" : "");
    }
    if (isOffered && cell.firstElementChild) {
      setAttribute(cell.firstElementChild, "aria-label", `Cancel ${name}`);
    }
  }

  /** @param {HTMLElement} row @param {number} index */
  #patchTime(row, index) {
    const { cells } = rowParts(row);
    const started = this.store.get(index, "started_at");
    const seconds = this.clock.seconds(started, this.store.get(index, "finished_at"));
    setText(cells.time, seconds === null ? "—" : duration(seconds));
    const bar = this.#bar(index, seconds);
    setAttribute(cells.time, "data-bar", bar && bar.kind);
    if (bar) cells.time.style.setProperty("--share", `${(bar.share * 100).toFixed(1)}%`);
    const usual = this.store.get(index, "usual_seconds");
    setAttribute(cells.time, "title", usual ? `usually ${duration(usual)}` : null);
  }

  /** How far a step has come, or how long it took against what it usually takes.
   * @param {number} index @param {number | null} seconds */
  #bar(index, seconds) {
    const progress = this.store.get(index, "progress");
    if (progress !== null && this.store.get(index, "status") === "running") {
      return { kind: "progress", share: progress };
    }
    const usual = this.store.get(index, "usual_seconds");
    if (!usual || seconds === null) return null;
    return { kind: "usual", share: Math.min(1, (seconds / usual) * USUAL_MARK) };
  }
}

/** @type {WeakMap<HTMLElement, {cells: {glyph: Element, word: Text, link: HTMLElement,
 *   line: HTMLElement, lane: HTMLElement, time: HTMLElement, action: HTMLElement}}>} */
const parts = new WeakMap();

/** @param {HTMLElement} row */
function rowParts(row) {
  const found = parts.get(row);
  if (!found) throw new Error("This row was not made here.");
  return found;
}

function makeRow() {
  const cells = {
    glyph: glyph("pending"),
    word: document.createTextNode(""),
    link: make("a", { href: "#" }),
    line: make("small"),
    lane: make("span", { class: "step-lane", role: "cell" }),
    time: make("span", { class: "step-time num", role: "cell" }),
    action: make("span", { class: "step-action", role: "cell" }),
  };
  const row = make(
    "div",
    { class: "step-row", role: "row" },
    make("span", { class: "status", role: "cell" }, cells.glyph, cells.word),
    make("div", { class: "step-name", role: "cell" }, cells.link, cells.line),
    cells.lane,
    cells.time,
    cells.action,
  );
  parts.set(row, { cells });
  return row;
}

/** What happened between two counts, for people who listen.
 * @param {Record<string, number>} before @param {Record<string, number>} after */
export function newsBetween(before, after) {
  return ["succeeded", "failed", "timed_out", "interrupted", "cancelled", "skipped"]
    .filter((status) => after[status] > (before[status] ?? 0))
    .map((status) => `${after[status] - (before[status] ?? 0)} ${lower(status)}`)
    .join(", ");
}
