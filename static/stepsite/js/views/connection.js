// @ts-check
import { byId, make, setHidden, setText } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { address } from "../lib/http.js";

/** Shorter losses are not worth a banner. */
const PATIENCE_MS = 2000;
const BACK_SHOWN_MS = 6000;

/** @type {Record<string, string>} */
const PILL = {
  connecting: "Connecting",
  open: "Live",
  lost: "Reconnecting",
  refused: "Not live",
  ended: "Ended",
};

/** @type {Record<number, string>} */
const REFUSALS = {
  401: "You are signed out. Sign in again to follow this page.",
  403: "Your account may no longer look at runs.",
  404: "This run was deleted.",
};

/** The pill and the banners that say how far the page can be trusted. */
export class ConnectionView {
  /** @type {import("../lib/socket.js").Connection | {kind: "ended"}} */
  #connection = { kind: "connecting" };
  #lostAt = 0;
  #lostAtClock = "";
  #lostSequence = -1;
  #isBannerShown = false;

  /** @param {{sequence: () => number, serverTime: () => number, retry: () => void,
   *   subject: string}} ports `subject` is what goes on without the page, such as "steps". */
  constructor(ports) {
    this.ports = ports;
    byId("lost-again").addEventListener("click", () => ports.retry());
    byId("back-dismiss").addEventListener("click", () => setHidden(byId("back-banner"), true));
    setInterval(() => this.#showLoss(), 250);
  }

  /** @param {import("../lib/socket.js").Connection | {kind: "ended"}} connection */
  show(connection) {
    const before = this.#connection.kind;
    this.#connection = connection;
    if (connection.kind === "lost" && before !== "lost") {
      this.#lostAt = performance.now();
      this.#lostAtClock = new Date(this.ports.serverTime()).toISOString().slice(11, 19);
      this.#lostSequence = this.ports.sequence();
      setHidden(byId("back-banner"), true);
    }
    document.documentElement.dataset.live = connection.kind;
    setText(byId("connection-text"), PILL[connection.kind]);
    this.#showLoss();
  }

  /** The first frame after a loss came and is shown. */
  caughtUp() {
    if (this.#lostSequence === -1 || this.#connection.kind !== "open") return;
    const missed = this.ports.sequence() - this.#lostSequence;
    this.#lostSequence = -1;
    if (!this.#isBannerShown) return;
    this.#isBannerShown = false;
    const replayed = missed > 0 ? `${plural(missed, "change")} replayed` : "Nothing had changed";
    setText(byId("back-what"), `${replayed}; nothing was lost.`);
    setHidden(byId("back-banner"), false);
    setTimeout(() => setHidden(byId("back-banner"), true), BACK_SHOWN_MS);
  }

  #showLoss() {
    const connection = this.#connection;
    if (connection.kind === "refused") {
      setText(byId("lost-what"), REFUSALS[connection.status] ?? "The server refused.");
      this.#offerSignIn(connection.status);
      setHidden(byId("lost-again"), true);
      setHidden(byId("lost-banner"), false);
      return;
    }
    const isLost = connection.kind === "lost" && performance.now() - this.#lostAt > PATIENCE_MS;
    // While a retry is under way the banner stays as it is.
    if (isLost) {
      this.#isBannerShown = true;
      const what = `Connection lost at ${this.#lostAtClock} UTC.`;
      const goesOn = `Showing the last known state; ${this.ports.subject} keep running on the server.`;
      setText(byId("lost-what"), `${what} ${goesOn}`);
      setText(byId("lost-retry"), this.#countdown(connection));
    }
    const isOver = connection.kind === "open" || connection.kind === "ended";
    if (isLost || isOver) setHidden(byId("lost-banner"), !isLost);
  }

  /** @param {number} status */
  #offerSignIn(status) {
    const place = byId("lost-retry");
    if (status !== 401) setText(place, "");
    else if (!place.querySelector("a")) {
      const here = encodeURIComponent(location.pathname + location.search);
      const href = address(`sign-in/?next=${here}`);
      place.replaceChildren(make("a", { class: "text-link", href }, "Sign in"));
    }
  }

  /** @param {{retryAt: number, attempt: number}} lost */
  #countdown({ retryAt, attempt }) {
    const seconds = Math.ceil((retryAt - performance.now()) / 1000);
    return seconds > 0
      ? `Retrying in ${seconds} s (attempt ${attempt}).`
      : `Retrying (attempt ${attempt}).`;
  }
}
