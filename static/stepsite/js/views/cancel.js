// @ts-check
import { byId, glyph, icon, make, one, setText } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { consequence, processesInWords } from "../lib/words.js";
import { opens, Question } from "../ui/question.js";

/**
 * @typedef {import("../lib/store.js").RunStore} RunStore
 * @typedef {import("../lib/forecast.js").Forecast} Forecast
 */

const NAMED = 6;

/** The dialog that says what cancelling the run will do, and asks how far it should go. */
export class CancelDialog {
  /** @param {RunStore} store @param {Forecast} forecast
   * @param {(mode: "stop" | "drain", note: string) => void} cancel */
  constructor(store, forecast, cancel) {
    this.store = store;
    this.forecast = forecast;
    this.question = new Question(/** @type {HTMLDialogElement} */ (byId("cancel-dialog")), {
      items: () => this.#items(),
      answer: (data) => cancel(modeOf(data), String(data.get("note") ?? "")),
      opened: () => forecast.start(),
      closed: () => forecast.stop(),
    });
    opens(byId("cancel-run"), () => this.open());
  }

  open() {
    const { form } = this.question;
    const drain = form.querySelector('input[value="drain"]');
    // The mode of a cancel only ever rises.
    const isDraining = this.store.run.cancel_mode === "drain";
    if (drain instanceof HTMLInputElement) drain.disabled = isDraining;
    const stop = form.querySelector('input[value="stop"]');
    if (isDraining && stop instanceof HTMLInputElement) stop.checked = true;
    this.question.open();
    return true;
  }

  render() {
    if (this.store.isFinal) this.question.close();
    else this.question.render();
  }

  #items() {
    const isStop = modeOf(this.question.data) === "stop";
    setText(one(byId("cancel-confirm"), "span"), isStop ? "Cancel run" : "Start nothing new");
    const { running, counts } = this.store.summary();
    const items = isStop ? [...this.#fates(running), ...this.#halfway()] : this.#finishing(running);
    if (counts.pending) {
      const pending = make("b", {}, plural(counts.pending, "pending step"));
      items.push(item("pending", pending, " will not start."));
    }
    return [...items, ...lostWarning()];
  }

  /** What becomes of the running steps, those of one fate together.
   * @param {number[]} running */
  #fates(running) {
    /** @type {Map<string, Named[]>} */
    const fates = new Map();
    for (const index of running) {
      const { text, named } = fateOf(this.store, this.forecast, index);
      fates.set(text, [...(fates.get(text) ?? []), named]);
    }
    return [...fates].map(([text, names]) => item("running", ...listed(names), `: ${text}`));
  }

  /** @param {number[]} running */
  #finishing(running) {
    const names = running.map((index) => ({ name: this.store.get(index, "name"), processes: "" }));
    return names.length ? [item("running", ...listed(names), ": run to their end.")] : [];
  }

  /** A critical step that is stopped leaves its work half done. */
  #halfway() {
    const { criticalNow, running, criticalDone } = this.store.summary();
    if (!running.includes(criticalNow) || this.store.get(criticalNow, "protected")) return [];
    const left = this.store.critical.length - criticalDone - 1;
    const rest = left ? ` The ${plural(left, "critical step")} after it will not run.` : "";
    return [halfway(this.store.get(criticalNow, "name"), rest)];
  }
}

/** The dialog about one critical step: other steps depend on it, so it is never a matter of a click. */
export class CancelStepDialog {
  #id = -1;

  /** @param {RunStore} store @param {Forecast} forecast
   * @param {(id: number, note: string) => void} cancel */
  constructor(store, forecast, cancel) {
    this.store = store;
    this.forecast = forecast;
    this.question = new Question(/** @type {HTMLDialogElement} */ (byId("cancel-step-dialog")), {
      items: () => this.#items(),
      answer: (data) => cancel(this.#id, String(data.get("note") ?? "")),
      opened: () => forecast.start(),
      closed: () => forecast.stop(),
    });
  }

  /** @param {number} id */
  ask(id) {
    this.#id = id;
    this.question.form.reset();
    setText(byId("cancel-step-title"), `Cancel ${this.store.get(this.store.placeOf(id), "name")}?`);
    this.question.open();
  }

  render() {
    if (!this.question.isOpen) return;
    const index = this.store.placeOf(this.#id);
    if (index === -1 || !this.store.isCancellable(index)) this.question.close();
    else this.question.render();
  }

  #items() {
    const index = this.store.placeOf(this.#id);
    const name = this.store.get(index, "name");
    const items = [];
    if (this.store.get(index, "status") === "running") {
      const { text, named } = fateOf(this.store, this.forecast, index);
      items.push(item("running", ...listed([named]), `: ${text}`), halfway(name));
    } else {
      items.push(item("pending", make("b", {}, name), " will not start."));
    }
    return [...items, ...this.#rest(index), ...lostWarning()];
  }

  /** What the failure policy makes of a critical miss.
   * @param {number} index */
  #rest(index) {
    const policy = this.store.run.failure_policy;
    if (policy === "stop_run") {
      return [warning("Nothing new starts after it: the run stops at a critical miss.")];
    }
    const { critical } = this.store;
    const after = critical.slice(critical.indexOf(index) + 1);
    const left = after.filter((each) => this.store.get(each, "status") === "pending").length;
    if (policy !== "stop_critical" || !left) return [];
    return [warning(make("b", {}, plural(left, "critical step")), " after it will be skipped.")];
  }
}

/** @param {FormData} data */
function modeOf(data) {
  return data.get("mode") === "drain" ? "drain" : "stop";
}

/** @typedef {{name: string, processes: string}} Named */

/** What a cancel does to a running step: what the server says, until then what its kind tells.
 * @param {RunStore} store @param {Forecast} forecast @param {number} index */
function fateOf(store, forecast, index) {
  const known = forecast.of(store.id(index));
  const text = known?.text ?? consequence(store.get(index, "kind"), store.get(index, "protected"));
  const processes = processesInWords(known?.processes ?? null);
  return { text, named: { name: store.get(index, "name"), processes } };
}

/** @param {Named[]} names */
function listed(names) {
  const nodes = names
    .slice(0, NAMED)
    .flatMap(({ name, processes }, at) => [
      at ? ", " : "",
      make("b", {}, name),
      processes ? ` (${processes})` : "",
    ]);
  const unnamed = names.length - NAMED;
  if (unnamed > 0) nodes.push(" and ", make("b", {}, `${unnamed} more`));
  return nodes;
}

/** @param {string} name @param {string} [rest] */
function halfway(name, rest = "") {
  return warning("Critical step ", make("b", {}, name), ` stops half-way.${rest}`);
}

/** While nothing is heard from the server, as an item to add or none. */
export function lostWarning() {
  if (!["lost", "refused"].includes(document.documentElement.dataset.live ?? "")) return [];
  return [warning("The connection is lost: the request may not arrive. The page will tell.")];
}

/** @param {string} status @param {(Node | string)[]} content */
export function item(status, ...content) {
  return make("li", {}, glyph(status), make("span", {}, ...content));
}

/** @param {(Node | string)[]} content */
function warning(...content) {
  return make("li", { class: "warn" }, icon("warning", 18), make("span", {}, ...content));
}
