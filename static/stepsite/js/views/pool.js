// @ts-check
import { byId, make, setAttribute, setHidden, setText } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { lower } from "../lib/words.js";

const DRAWN = 48;

/** The slots of the pool and what holds them. */
export class PoolView {
  /** @param {import("../lib/store.js").RunStore} store */
  constructor(store) {
    this.store = store;
  }

  render() {
    const { run, isFinal } = this.store;
    setHidden(byId("pool"), this.store.critical.length === this.store.size);
    const { slots, busy, poolPending } = this.store.summary();
    setText(byId("pool-busy"), String(isFinal ? 0 : busy));
    setText(byId("pool-waiting"), poolPending ? `${poolPending.toLocaleString("en")} waiting` : "");
    const list = byId("slots");
    const drawn = Math.min(run.pool_width, DRAWN);
    let held = 0;
    for (let number = 1; number <= drawn; number += 1) {
      const item = list.children[number - 1] ?? list.appendChild(make("li", { class: "slot" }));
      const holder = isFinal ? undefined : slots.get(number);
      const status = holder === undefined ? "" : this.#status(holder);
      if (status === "cancelling") held += 1;
      setAttribute(item, "data-slot", String(number));
      setAttribute(item, "data-status", status);
      setAttribute(item, "title", this.#title(holder, status));
      setText(item, String(number));
    }
    while (list.children.length > drawn) list.lastElementChild?.remove();
    setText(byId("pool-note"), this.#note(held, run.pool_width - drawn));
  }

  /** @param {number} index */
  #status(index) {
    return this.store.get(index, "abandoned_at") ? "cancelling" : this.store.shown(index);
  }

  /** @param {number | undefined} index @param {string} status */
  #title(index, status) {
    return index === undefined ? "free" : `${this.store.get(index, "name")}: ${lower(status)}`;
  }

  /** @param {number} held @param {number} undrawn */
  #note(held, undrawn) {
    const { run } = this.store;
    const { criticalNow, poolPending } = this.store.summary();
    const notes = [];
    if (undrawn > 0) notes.push(`${plural(undrawn, "slot")} more, not drawn.`);
    if (held) notes.push(`${plural(held, "slot")} still held by what was asked to stop.`);
    if (!this.store.isFinal && criticalNow !== -1 && poolPending) {
      if (run.pool_start === "after_critical") notes.push("Opens after the critical lane.");
    }
    return notes.join(" ");
  }
}
