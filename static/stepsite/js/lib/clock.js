// @ts-check

const KEPT = 9;

/** The server's time. It is told with every answer; this machine's clock is never asked. */
export class Clock {
  /** @type {number[]} Milliseconds between the monotonic clock and the server's. */
  #offsets = [];
  #offset = Date.now() - performance.now();

  /** @param {string} now The server's time of an answer that has just come. */
  sync(now) {
    const offset = Date.parse(now) - performance.now();
    if (Number.isNaN(offset)) return;
    this.#offsets = [...this.#offsets.slice(1 - KEPT), offset];
    // An answer that was under way for long makes the server look slow, never fast.
    this.#offset = Math.max(...this.#offsets);
  }

  /** Milliseconds since 1970 on the server. */
  now() {
    return performance.now() + this.#offset;
  }

  /** Seconds from one moment to another, or until now.
   * @param {string | null} start @param {string | null} [end] @returns {number | null} */
  seconds(start, end) {
    if (!start) return null;
    return ((end ? Date.parse(end) : this.now()) - Date.parse(start)) / 1000;
  }
}
