// @ts-check
import { byId, glyph, make } from "../lib/dom.js";
import { ago, plural } from "../lib/format.js";
import { lower, MISSED } from "../lib/words.js";

const MESSAGE_LENGTH = 160;

/** What stands out: who asked for a cancel, what missed first. */
export class VerdictView {
  #shown = "";

  /** @param {import("../lib/store.js").RunStore} store
   * @param {import("../lib/clock.js").Clock} clock @param {(index: number) => void} select */
  constructor(store, clock, select) {
    this.store = store;
    this.clock = clock;
    this.select = select;
  }

  render() {
    const { run } = this.store;
    const { firstMiss, counts } = this.store.summary();
    const misses = [...MISSED].reduce((sum, status) => sum + counts[status], 0);
    const facts = [
      firstMiss,
      misses,
      counts.cancelled,
      run.status,
      this.store.runShown,
      run.waiting,
      run.cancel_requested_at,
      run.cancel_mode,
    ];
    const state = JSON.stringify(facts);
    if (state === this.#shown) return;
    this.#shown = state;
    const lines = [];
    if (run.cancel_requested_at) lines.push(this.#cancelLine());
    if (firstMiss !== -1) lines.push(this.#missLine(firstMiss));
    if (misses > 1)
      lines.push(make("p", { class: "verdict-rest" }, `and ${misses - 1} more missed`));
    if (!lines.length) lines.push(this.#calmLine());
    byId("verdict-body").replaceChildren(...lines);
  }

  #cancelLine() {
    const { run, runShown } = this.store;
    const note = run.cancel_note ? `: “${run.cancel_note}”` : "";
    const mode = run.cancel_mode === "drain" ? " Running steps may finish." : "";
    return line(
      runShown === "cancelling" ? "cancelling" : run.status,
      "Cancel asked for by ",
      make("b", {}, run.cancel_requested_by),
      " ",
      this.#age(run.cancel_requested_at),
      `${note}.${mode}`,
    );
  }

  /** @param {number} index */
  #missLine(index) {
    const status = this.store.shown(index);
    const said = String(this.store.get(index, "message"));
    const cut = said.length > MESSAGE_LENGTH ? `${said.slice(0, MESSAGE_LENGTH)}…` : said;
    const link = make("a", { class: "quiet-link", href: `?step=${this.store.id(index)}` });
    link.append(make("b", {}, this.store.get(index, "name")));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.select(index);
    });
    return line(status, link, ` ${lower(status)}${cut ? `: ${cut}` : ""}`);
  }

  #calmLine() {
    const { run, isFinal } = this.store;
    const { cancelled } = this.store.summary().counts;
    if (cancelled) return line("cancelled", `Nothing failed; ${plural(cancelled, "step")} cancelled.`);
    if (isFinal) return line(run.status, "Every step that ran succeeded.");
    if (run.status === "queued") {
      return line(run.status, `In the queue: ${run.waiting || "a worker takes it in a moment"}.`);
    }
    return line(run.status, "Nothing has missed so far.");
  }

  /** The page keeps such times up to date.
   * @param {string | null} moment */
  #age(moment) {
    const text = ago(this.clock.seconds(moment) ?? 0);
    const title = `${(moment ?? "").slice(0, 19).replace("T", " ")} UTC`;
    return make("time", { datetime: moment ?? "", title, "data-ago": "" }, text);
  }
}

/** @param {string} status @param {(Node | string)[]} content */
function line(status, ...content) {
  const text = make("span", {}, ...content);
  return make("p", { class: "verdict-line", "data-status": status }, glyph(status, 18), text);
}
