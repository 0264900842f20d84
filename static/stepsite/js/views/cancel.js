// @ts-check
import { byId, glyph, icon, make, one, setText } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { consequence } from "../lib/words.js";

const NAMED = 6;

/** The dialog that says what cancelling the run will do, and asks how far it should go. */
export class CancelDialog {
  /** @param {import("../lib/store.js").RunStore} store
   * @param {(mode: "stop" | "drain", note: string) => void} cancel */
  constructor(store, cancel) {
    this.store = store;
    this.dialog = /** @type {HTMLDialogElement} */ (byId("cancel-dialog"));
    this.form = /** @type {HTMLFormElement} */ (one(this.dialog, "form"));
    byId("cancel-run").addEventListener("click", (event) => {
      event.preventDefault();
      this.open();
    });
    byId("cancel-run").addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      this.open();
    });
    byId("cancel-keep").addEventListener("click", () => this.dialog.close());
    this.form.addEventListener("change", () => this.render());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const data = new FormData(this.form);
      this.dialog.close();
      cancel(this.#mode, String(data.get("note") ?? ""));
    });
  }

  get #mode() {
    return new FormData(this.form).get("mode") === "drain" ? "drain" : "stop";
  }

  open() {
    if (this.dialog.open) return;
    const drain = this.form.querySelector('input[value="drain"]');
    // The mode of a cancel only ever rises.
    const isDraining = this.store.run.cancel_mode === "drain";
    if (drain instanceof HTMLInputElement) drain.disabled = isDraining;
    const stop = this.form.querySelector('input[value="stop"]');
    if (isDraining && stop instanceof HTMLInputElement) stop.checked = true;
    this.dialog.showModal();
    this.render();
    byId("cancel-keep").focus();
  }

  /** The run goes on while the dialog is open, so what it says does too. */
  render() {
    if (!this.dialog.open) return;
    if (this.store.isFinal) {
      this.dialog.close();
      return;
    }
    const isStop = this.#mode === "stop";
    const items = isStop ? [...this.#fates(), ...this.#halfway()] : this.#finishing();
    const { pending } = this.store.summary().counts;
    items.push(item("pending", make("b", {}, plural(pending, "pending step")), " will not start."));
    const list = byId("consequences");
    const isSame = list.textContent === items.map((each) => each.textContent).join("");
    if (!isSame) list.replaceChildren(...items);
    setText(one(byId("cancel-confirm"), "span"), isStop ? "Cancel run" : "Start nothing new");
  }

  /** What becomes of the running steps, those of one fate together. */
  #fates() {
    /** @type {Map<string, string[]>} */
    const fates = new Map();
    for (const index of this.store.summary().running) {
      const text = consequence(this.store.get(index, "kind"), this.store.get(index, "protected"));
      fates.set(text, [...(fates.get(text) ?? []), this.store.get(index, "name")]);
    }
    return [...fates].map(([text, names]) => item("running", ...listed(names), `: ${text}`));
  }

  #finishing() {
    const names = this.store.summary().running.map((index) => this.store.get(index, "name"));
    return names.length ? [item("running", ...listed(names), ": run to their end.")] : [];
  }

  /** A critical step that is stopped leaves its work half done. */
  #halfway() {
    const { criticalNow, running, criticalDone } = this.store.summary();
    if (!running.includes(criticalNow) || this.store.get(criticalNow, "protected")) return [];
    const left = this.store.critical.length - criticalDone - 1;
    const rest = left ? ` The ${plural(left, "critical step")} after it will not run.` : "";
    const name = make("b", {}, this.store.get(criticalNow, "name"));
    const text = make("span", {}, "Critical step ", name, ` stops half-way.${rest}`);
    return [make("li", { class: "warn" }, icon("warning", 18), text)];
  }
}

/** @param {string[]} names */
function listed(names) {
  const nodes = names.slice(0, NAMED).flatMap((name, at) => [at ? ", " : "", make("b", {}, name)]);
  const unnamed = names.length - NAMED;
  if (unnamed > 0) nodes.push(" and ", make("b", {}, `${unnamed} more`));
  return nodes;
}

/** @param {string} status @param {(Node | string)[]} content */
function item(status, ...content) {
  return make("li", {}, glyph(status), make("span", {}, ...content));
}
