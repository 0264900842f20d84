// @ts-check
import { byId, glyph, icon, make, setAttribute, setHidden, setText } from "../lib/dom.js";
import { bytes, duration, limit } from "../lib/format.js";
import { address, ApiError } from "../lib/http.js";
import { asShown, LINES_KEPT, LogTail } from "../lib/logtail.js";
import { FINAL_STEP, messageBeside, receiptOf, word } from "../lib/words.js";

const FETCH_APART_MS = 250;
const RETRY_MS = 2000;
const NEAR_END_PX = 24;

/** The selected step: its facts, why it is where it is, and the end of its output. */
export class LogView {
  /** @type {LogTail | null} */
  #tail = null;
  #abort = new AbortController();
  #index = -1;
  #fetchTimer = 0;
  #isFollowing = true;
  #drawn = 0;
  /** Lines that came while the reader was elsewhere. */
  #unseen = 0;
  /** @type {HTMLElement | null} */
  #restRow = null;

  /** @param {import("../lib/store.js").RunStore} store
   * @param {import("../lib/clock.js").Clock} clock @param {(id: number) => void} cancel */
  constructor(store, clock, cancel) {
    this.store = store;
    this.clock = clock;
    this.lines = byId("log-lines");
    this.lines.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    byId("log-follow").addEventListener("click", () => this.#follow(!this.#isFollowing));
    byId("log-wrap").addEventListener("click", () => this.#wrap());
    byId("log-sheet").addEventListener("click", () => this.toggleSheet());
    byId("log-cancel").addEventListener("click", () => {
      if (this.#index !== -1) cancel(this.store.id(this.#index));
    });
  }

  get index() {
    return this.#index;
  }

  /** @param {number} index */
  select(index) {
    if (index === this.#index) return;
    this.#index = index;
    this.#abort.abort();
    this.#abort = new AbortController();
    clearTimeout(this.#fetchTimer);
    this.#fetchTimer = 0;
    this.#tail = new LogTail(this.store.id(index), this.#abort.signal);
    this.#drawn = 0;
    this.#unseen = 0;
    this.#restRow = null;
    this.lines.replaceChildren();
    delete byId("log-head").dataset.last;
    this.#follow(true);
    byId("log").dataset.state = "chosen";
    byId("log").dataset.stepRun = String(this.store.id(index));
    const raw = byId("log-raw");
    setAttribute(raw, "href", address(`api/step-runs/${this.store.id(index)}/log?raw=1`));
    this.render();
  }

  /** @param {boolean} [isOpen] */
  toggleSheet(isOpen) {
    const log = byId("log");
    const open = log.toggleAttribute("data-open", isOpen);
    const button = byId("log-sheet");
    button.setAttribute("aria-expanded", String(open));
    button.setAttribute("aria-label", open ? "Hide the output" : "Show the output");
    if (open && this.#isFollowing) this.lines.scrollTop = this.lines.scrollHeight;
  }

  render() {
    if (this.#index === -1 || !this.#tail) return;
    const { store } = this;
    const status = store.shown(this.#index);
    const name = store.get(this.#index, "name");
    setText(byId("log-title"), name);
    setAttribute(byId("log-title"), "title", name);
    const mark = byId("log-glyph");
    if (mark.firstElementChild?.getAttribute("data-status") !== status) {
      mark.replaceChildren(glyph(status, 20, word(status)));
    }
    setHidden(byId("log-cancel"), !(store.canCancel && store.isCancellable(this.#index)));
    this.#renderFacts(status);
    this.#renderWhy();
    this.#renderMessage(status);
    this.#renderFoot();
    this.#fetchSoon(0);
  }

  tick() {
    if (this.#index === -1) return;
    const text = this.#took();
    setText(byId("log-peek-time"), text);
    const took = document.getElementById("log-took");
    if (took) setText(took, text);
  }

  #took() {
    const started = this.store.get(this.#index, "started_at");
    const seconds = this.clock.seconds(started, this.store.get(this.#index, "finished_at"));
    return seconds === null ? "—" : duration(seconds);
  }

  /** @param {string} status */
  #renderFacts(status) {
    const get = (/** @type {string} */ name) => this.store.get(this.#index, name);
    /** @type {[string, string, string?][]} */
    const facts = [[word(status), this.#took(), "log-took"]];
    if (get("usual_seconds")) facts.push(["usually", duration(get("usual_seconds"))]);
    if (get("attempt") > 1) facts.push(["attempt", String(get("attempt"))]);
    if (get("slot")) facts.push(["slot", String(get("slot"))]);
    facts.push(["limit", limit(get("timeout_seconds"))]);
    if (get("exit_code") !== null) facts.push(["exit code", String(get("exit_code"))]);
    if (get("progress") !== null)
      facts.push(["progress", `${Math.round(get("progress") * 100)} %`]);
    const state = JSON.stringify(facts.map(([label, value, id]) => (id ? label : [label, value])));
    const list = byId("log-facts");
    if (list.dataset.state !== state) {
      list.dataset.state = state;
      list.replaceChildren(...facts.map(fact));
    }
    this.tick();
  }

  #renderWhy() {
    const why = byId("log-why");
    const lane = this.store.get(this.#index, "lane") === "critical" ? "Critical" : "Pool";
    const because = this.store.get(this.#index, "because");
    setHidden(why, false);
    if (why.textContent !== `${lane} ${because}`) {
      why.replaceChildren(make("b", {}, lane), " ", because);
    }
  }

  /** @param {string} status */
  #renderMessage(status) {
    const receipt = receiptOf(this.store, this.#index);
    const message = messageBeside(receipt, this.store, this.#index);
    setHidden(byId("log-message"), !message);
    setText(byId("log-message"), message);
    setAttribute(byId("log-message"), "data-status", status);
    const place = byId("log-receipt");
    const state = JSON.stringify(receipt);
    setHidden(place, receipt === null);
    if (place.dataset.state === state) return;
    place.dataset.state = state;
    place.replaceChildren(...(receipt ? paragraphs(receipt) : []));
  }

  #renderFoot() {
    const tail = /** @type {LogTail} */ (this.#tail);
    const size = this.store.get(this.#index, "log_size");
    setText(byId("log-size"), size ? bytes(size) : "");
    setHidden(byId("log-raw"), !size);
    const isOver = FINAL_STEP.has(this.store.get(this.#index, "status"));
    setHidden(byId("log-empty"), size > 0);
    setText(byId("log-empty"), `This step has printed nothing${isOver ? "." : " yet."}`);
    const isCut = tail.before > 0 || tail.count > LINES_KEPT;
    setHidden(byId("log-cut"), !isCut);
    if (isCut) setText(byId("log-cut"), `Only the last ${tail.lines.length} lines are shown.`);
  }

  // ---- fetching: only while the store says that there is more

  /** @param {number} delay */
  #fetchSoon(delay) {
    const size = this.store.get(this.#index, "log_size");
    if (this.#fetchTimer || !this.#tail?.lacks(size)) return;
    this.#fetchTimer = setTimeout(() => this.#fetch(), delay);
  }

  async #fetch() {
    const tail = this.#tail;
    if (!tail) return;
    let delay = FETCH_APART_MS;
    try {
      await tail.fetchMore();
    } catch (error) {
      if (tail !== this.#tail) return;
      if (!(error instanceof ApiError)) throw error;
      delay = RETRY_MS;
    }
    if (tail !== this.#tail) return;
    this.#fetchTimer = setTimeout(() => {
      this.#fetchTimer = 0;
      this.#fetchSoon(0);
    }, delay);
    this.#draw(tail);
    this.#renderFoot();
  }

  /** @param {LogTail} tail */
  #draw(tail) {
    const fresh = Math.min(tail.count - this.#drawn, tail.lines.length);
    this.#drawn = tail.count;
    this.#restRow?.remove();
    this.#restRow = null;
    if (fresh > 0) this.lines.append(...tail.lines.slice(-fresh).map(lineOf));
    while (this.lines.childElementCount > LINES_KEPT) this.lines.firstElementChild?.remove();
    if (tail.rest) {
      this.#restRow = lineOf(asShown(tail.rest));
      this.lines.append(this.#restRow);
    }
    if (this.#isFollowing) this.lines.scrollTop = this.lines.scrollHeight;
    else this.#unseen += Math.max(fresh, 0);
    this.#renderFollow();
    const last = tail.rest ? asShown(tail.rest) : tail.lines.at(-1);
    byId("log-head").dataset.last = last?.slice(0, 200) ?? "";
  }

  // ---- following

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.lines;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    if (isAtEnd !== this.#isFollowing) this.#follow(isAtEnd, false);
  }

  /** @param {boolean} isFollowing @param {boolean} [isJump] */
  #follow(isFollowing, isJump = true) {
    this.#isFollowing = isFollowing;
    if (isFollowing) {
      this.#unseen = 0;
      if (isJump) this.lines.scrollTop = this.lines.scrollHeight;
    }
    this.#renderFollow();
  }

  #renderFollow() {
    const button = byId("log-follow");
    setAttribute(button, "aria-pressed", String(this.#isFollowing));
    const label = button.querySelector("span");
    if (label) setText(label, this.#unseen ? `${this.#unseen} new lines` : "Follow");
  }

  #wrap() {
    const isWrapped = !this.lines.toggleAttribute("data-unwrapped");
    byId("log-wrap").setAttribute("aria-pressed", String(isWrapped));
  }
}

/** @param {string} text */
function lineOf(text) {
  return make("div", { class: "log-row" }, text);
}

/** @param {[string, string, string?]} fact */
function fact([label, value, id]) {
  const description = make("dd", id ? { id, class: "num" } : {}, value);
  return make("div", {}, make("dt", {}, label), description);
}

/** @param {import("../lib/words.js").Receipt} receipt */
function paragraphs({ by, at, note, text, doubt }) {
  const parts = [];
  if (by || text) {
    const time = make("time", { datetime: at, title: `${at.slice(0, 19).replace("T", " ")} UTC` });
    time.textContent = `${at.slice(11, 19)} UTC`;
    const said = note ? `: “${note}”. ` : ". ";
    const asked = by ? ["Cancel asked for by ", make("b", {}, by), " at ", time, said] : [];
    parts.push(make("p", {}, ...asked, text));
  }
  if (doubt) {
    parts.push(make("p", { class: "doubt" }, icon("warning", 16), make("span", {}, doubt)));
  }
  return parts;
}
