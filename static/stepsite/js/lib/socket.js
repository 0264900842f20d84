// @ts-check
import { address } from "./http.js";

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 5000;
/** The server beats every 10 s; longer silence means that the line is dead. */
const SILENCE_MS = 25_000;

/** Close codes after which trying again is useless. */
const REFUSALS = new Map([
  [4401, 401],
  [4403, 403],
  [4404, 404],
]);

/**
 * @typedef {{kind: "connecting" | "open"} | {kind: "lost", retryAt: number, attempt: number}
 *   | {kind: "refused", status: number}} Connection
 */

/** A socket that comes back by itself.
 *
 * It tells `onConnection` what it is doing and `onFrame` what came. Whenever it was lost it calls
 * `catchUp` before it tries again: that asks over HTTP, so it finds out why a socket never opens
 * (401, 403 and 404 end the retries) and brings the page up to date even where sockets are blocked.
 */
export class LiveSocket {
  /** @type {WebSocket | null} */
  #socket = null;
  #attempt = 0;
  #retryTimer = 0;
  #silenceTimer = 0;
  #isEnded = false;
  /** Raised whenever what was under way is given up. */
  #era = 0;

  /** @param {{path: () => string, onFrame: (frame: any) => number | null,
   *   onConnection: (connection: Connection) => void, catchUp: () => Promise<number | null>}} ports
   * `path` is asked anew for every attempt; `onFrame` returns the number to acknowledge; `catchUp`
   * returns a status that ends the retries, or null. */
  constructor(ports) {
    this.ports = ports;
    addEventListener("online", () => this.retryNow());
    // The socket itself would notice nothing until the server has been silent for long.
    addEventListener("offline", () => {
      if (!this.#isEnded && this.#socket) this.#lose(0);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.retryNow();
    });
  }

  connect() {
    if (this.#isEnded || this.#socket) return;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    const url = new URL(address(this.ports.path()), location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#listenForSilence();
    socket.onopen = () => {
      this.ports.onConnection({ kind: "open" });
    };
    socket.onmessage = (event) => {
      this.#attempt = 0;
      this.#listenForSilence();
      const ack = this.ports.onFrame(JSON.parse(event.data));
      if (ack !== null && socket.readyState === WebSocket.OPEN) {
        socket.send(JSON.stringify({ ack }));
      }
    };
    socket.onclose = (event) => {
      if (this.#socket === socket) this.#lose(event.code);
    };
  }

  /** Try again without waiting. */
  retryNow() {
    if (!this.#isEnded && !this.#socket && this.#retryTimer) this.connect();
  }

  /** Leave this connection and make another, from wherever the page is by now. */
  restart() {
    this.#drop();
    this.connect();
  }

  /** Nothing more will come. */
  end() {
    this.#isEnded = true;
    clearTimeout(this.#retryTimer);
    this.#drop();
  }

  #drop() {
    clearTimeout(this.#silenceTimer);
    this.#era += 1;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #listenForSilence() {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => this.#lose(0), SILENCE_MS);
  }

  /** @param {number} code */
  async #lose(code) {
    this.#drop();
    const refusal = REFUSALS.get(code);
    if (refusal) {
      this.#refuse(refusal);
      return;
    }
    this.#attempt += 1;
    this.#plan();
    const era = this.#era;
    const status = await this.ports.catchUp();
    if (era === this.#era && status !== null) this.#refuse(status);
  }

  #plan() {
    const longest = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#attempt);
    // Jitter, so that a server that comes back is not met by everybody at once.
    const delay = longest / 2 + (Math.random() * longest) / 2;
    this.#retryTimer = setTimeout(() => this.connect(), delay);
    const retryAt = performance.now() + delay;
    this.ports.onConnection({ kind: "lost", retryAt, attempt: this.#attempt });
  }

  /** @param {number} status */
  #refuse(status) {
    this.end();
    this.ports.onConnection({ kind: "refused", status });
  }
}
