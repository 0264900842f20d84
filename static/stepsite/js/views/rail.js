// @ts-check
import {
  breakable,
  byId,
  glyph,
  make,
  one,
  setAttribute,
  setGlyph,
  setHidden,
  setText,
} from "../lib/dom.js";
import { duration } from "../lib/format.js";
import { FINAL_STEP, word } from "../lib/words.js";

/** Longer lanes show the stretch around the step that runs. */
const DRAWN = 40;
const BEHIND = 12;

/** The critical lane as an ordered rail. */
export class RailView {
  /** @type {{index: number, node: HTMLElement}[]} */
  #nodes = [];
  #start = -1;
  #now = -2;

  /** @param {import("../lib/store.js").RunStore} store
   * @param {import("../lib/clock.js").Clock} clock
   * @param {{select: (index: number) => void, selected: () => number}} selection */
  constructor(store, clock, selection) {
    this.store = store;
    this.clock = clock;
    this.selection = selection;
  }

  /** The lane is another one: the rows were replaced. */
  reset() {
    this.#start = -1;
  }

  render() {
    const { critical } = this.store;
    setHidden(byId("critical"), critical.length === 0);
    if (!critical.length) return;
    const { criticalNow, criticalDone } = this.store.summary();
    setText(byId("critical-done"), `${criticalDone} of ${critical.length} done`);
    const place = criticalNow === -1 ? critical.length : critical.indexOf(criticalNow);
    this.#layOut(Math.max(0, Math.min(place - BEHIND, critical.length - DRAWN)));
    for (const { index, node } of this.#nodes) this.#patch(index, node);
    this.#renderWhy(criticalNow);
    if (criticalNow !== this.#now) this.#reveal(criticalNow);
    this.#now = criticalNow;
  }

  tick() {
    for (const { index, node } of this.#nodes) {
      if (this.store.get(index, "status") === "running") this.#patchTime(index, node);
    }
  }

  /** @param {number} start */
  #layOut(start) {
    // A long lane moves on in leaps, so that its nodes rarely change places.
    const isShown = this.#start !== -1 && Math.abs(start - this.#start) < BEHIND - 2;
    if (isShown || start === this.#start) return;
    this.#start = start;
    const { critical } = this.store;
    const places = critical.slice(start, start + DRAWN);
    this.#nodes = places.map((index) => ({ index, node: this.#make(index) }));
    const items = this.#nodes.map(({ node }) => node);
    const after = critical.length - start - places.length;
    if (start) items.unshift(make("li", { class: "more" }, `${start} before`));
    if (after) items.push(make("li", { class: "more" }, `${after} more`));
    byId("rail").replaceChildren(...items);
  }

  /** @param {number} index */
  #make(index) {
    const id = this.store.id(index);
    const link = make("a", { class: "rail-step", href: `?step=${id}` });
    link.append(
      make("span", { class: "rail-name" }, ...breakable(this.store.get(index, "name"))),
      make("span", { class: "rail-time num" }),
    );
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.selection.select(index);
    });
    const mark = make("span", { class: "node" }, glyph("pending", 26, "Pending"));
    return make("li", { "data-step-run": String(id) }, mark, link);
  }

  /** @param {number} index @param {HTMLElement} node */
  #patch(index, node) {
    const status = this.store.shown(index);
    if (node.dataset.status !== status) {
      node.dataset.status = status;
      setGlyph(one(node, ".node").children[0], status, word(status));
    }
    setAttribute(node, "data-reached", this.store.get(index, "started_at") ? "" : null);
    setAttribute(node, "aria-current", this.selection.selected() === index ? "true" : null);
    this.#patchTime(index, node);
  }

  /** @param {number} index @param {HTMLElement} node */
  #patchTime(index, node) {
    const started = this.store.get(index, "started_at");
    const seconds = this.clock.seconds(started, this.store.get(index, "finished_at"));
    const usual = this.store.get(index, "usual_seconds");
    const guess = usual && !FINAL_STEP.has(this.store.shown(index)) ? `~${duration(usual)}` : "";
    setText(one(node, ".rail-time"), seconds === null ? guess : duration(seconds));
  }

  /** @param {number} criticalNow */
  #renderWhy(criticalNow) {
    const selected = this.selection.selected();
    const isCritical = selected !== -1 && this.store.get(selected, "lane") === "critical";
    const index = isCritical ? selected : criticalNow;
    const why = byId("why");
    setHidden(why, index === -1);
    if (index === -1) return;
    const question = `Why is ${this.store.get(index, "name")} critical?`;
    const answer = this.store.get(index, "because");
    if (why.textContent !== `${question} ${answer}`) {
      why.replaceChildren(make("b", {}, question), " ", make("span", {}, answer));
    }
  }

  /** @param {number} index */
  #reveal(index) {
    const shown = this.#nodes.find((node) => node.index === index);
    const rail = byId("rail");
    if (!shown || rail.scrollWidth <= rail.clientWidth || rail.matches(":hover")) return;
    rail.scrollTo({ left: shown.node.offsetLeft - rail.clientWidth / 2 });
  }
}
