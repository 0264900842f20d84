// @ts-check
import {
  byId,
  glyph,
  icon,
  make,
  one,
  setAttribute,
  setGlyph,
  setHidden,
  setText,
} from "../lib/dom.js";
import { ago, duration } from "../lib/format.js";
import { lower, SEGMENTS, stoppingInWords, word } from "../lib/words.js";
import { drawSegments } from "./segments.js";

/** @typedef {import("../lib/store.js").RunStore} RunStore */

/** Status, clock, progress and the button that stops the run. */
export class HeaderView {
  #status = "";
  #favicon = "";

  /** @param {RunStore} store @param {import("../lib/clock.js").Clock} clock */
  constructor(store, clock) {
    this.store = store;
    this.clock = clock;
  }

  render() {
    const { store } = this;
    const { counts, finished } = store.summary();
    this.#renderStatus(store.runShown);
    setText(byId("done"), finished.toLocaleString("en"));
    const waiting = store.run.status === "queued" ? store.run.waiting : "";
    setText(byId("waiting"), stoppingInWords(store) || waiting);
    drawSegments(byId("segments"), counts);
    this.#renderLegend(counts);
    this.#renderTab(store.runShown, finished);
    this.tick();
  }

  tick() {
    const { run, isFinal } = this.store;
    const seconds = this.clock.seconds(run.started_at ?? run.queued_at, run.finished_at);
    const label = isFinal ? "in all" : run.started_at ? "elapsed" : "in the queue";
    setText(byId("elapsed"), seconds === null ? "—" : duration(seconds));
    setText(byId("elapsed-label"), ` ${label}`);
    this.#renderWhen();
  }

  #renderWhen() {
    const { run } = this.store;
    const moment = run.started_at ?? run.queued_at;
    const since = this.clock.seconds(moment);
    if (!moment || since === null) return;
    const place = byId("run-when");
    let time = place.querySelector("time");
    if (!time || time.dateTime !== moment) {
      time = document.createElement("time");
      time.dateTime = moment;
      time.title = `${moment.slice(0, 19).replace("T", " ")} UTC`;
      const verb = run.started_at ? "started" : "queued";
      place.replaceChildren(icon("clock", 15), `${verb} `, time);
    }
    setText(time, ago(since));
  }

  /** @param {string} status */
  #renderStatus(status) {
    if (status === this.#status) return;
    this.#status = status;
    const pill = make("span", { class: "pill lg", "data-status": status });
    pill.append(glyph(status, 20), make("span", {}, word(status)));
    byId("run-status").replaceChildren(pill);
    byId("main").dataset.runStatus = this.store.run.status;
  }

  /** @param {Record<string, number>} counts */
  #renderLegend(counts) {
    const list = byId("legend");
    const present = SEGMENTS.filter((status) => counts[status]);
    present.forEach((status, index) => {
      const item = list.children[index] ?? list.appendChild(legendItem());
      setAttribute(item, "data-status", status);
      const [svg, text] = item.children;
      setGlyph(svg, status);
      const number = counts[status].toLocaleString("en");
      if (text.textContent !== `${number} ${lower(status)}`) {
        text.replaceChildren(make("b", { class: "num" }, number), ` ${lower(status)}`);
      }
    });
    while (list.children.length > present.length) list.lastElementChild?.remove();
  }

  /** @param {string} status @param {number} finished */
  #renderTab(status, finished) {
    const { run, isFinal } = this.store;
    const mark = isFinal ? (run.status === "succeeded" ? "✓" : "✕") : "●";
    const progress = isFinal ? word(run.status) : `${finished}/${run.total}`;
    document.title = `${mark} ${progress} ${run.batch.name} #${run.id}`;
    const icon = isFinal ? (run.status === "succeeded" ? "ok" : "failed") : "running";
    const name = status === "queued" || run.status === "cancelled" ? "idle" : icon;
    if (name === this.#favicon) return;
    this.#favicon = name;
    const link = document.querySelector('link[rel="icon"]');
    if (link instanceof HTMLLinkElement) {
      link.href = link.href.replace(/favicon-[a-z]+\.svg/, `favicon-${name}.svg`);
    }
  }
}

function legendItem() {
  return make("li", {}, glyph("pending", 16), make("span"));
}

/** Shows or hides the button that cancels the run.
 * @param {RunStore} store */
export function renderCancelButton(store) {
  const button = document.getElementById("cancel-run");
  if (!button) return;
  setHidden(button, store.isFinal || store.isStopping || !store.canCancel);
  setText(one(button, "span"), store.runShown === "cancelling" ? "Stop now" : "Cancel run");
}
