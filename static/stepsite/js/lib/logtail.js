// @ts-check
import { get } from "./http.js";

const FIRST_BYTES = 128 * 1024;
const NEXT_BYTES = 512 * 1024;
export const LINES_KEPT = 1000;

// Escape sequences of terminals: colours, cursor movements, titles, character sets.
const ESCAPES =
  // eslint-disable-next-line no-control-regex
  /(?:\u001b\[|\u009b)[0-?]*[ -/]*[@-~]|\u001b(?:[\]P^_X][^\u0007\u001b]*(?:\u0007|\u001b\\)|[ -/]+[0-~]|[0-~])/g;
// Other control characters, but the tab, and those that change the direction of text.
// eslint-disable-next-line no-control-regex
const CONTROLS = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** The end of a step's output, fetched piece by piece. Offsets count stored bytes. */
export class LogTail {
  /** @type {string[]} Whole lines, the last ones that came. */
  lines = [];
  /** What follows the last line break. */
  rest = "";
  /** Lines that came over time. */
  count = 0;
  /** Bytes before the first one that was fetched. */
  before = 0;
  /** Offset of the next byte; -1: nothing was fetched yet. */
  next = -1;
  size = 0;
  isFinal = false;
  isFetching = false;

  /** @param {number} stepRunId @param {AbortSignal} signal */
  constructor(stepRunId, signal) {
    this.stepRunId = stepRunId;
    this.signal = signal;
  }

  /** Whether there is more than what was fetched.
   * @param {number} size Bytes that the server is known to hold. */
  lacks(size) {
    return !this.isFetching && size > Math.max(this.next, 0);
  }

  /** Fetch what is missing, at most one piece. Raises `ApiError`. */
  async fetchMore() {
    this.isFetching = true;
    try {
      const isFirst = this.next === -1;
      // Too far behind to catch up: only the end is wanted anyway.
      const isBehind = !isFirst && this.size - this.next > 2 * NEXT_BYTES;
      const query = isFirst || isBehind ? `tail=1&limit=${FIRST_BYTES}` : this.#follow();
      const answer = await get(`api/step-runs/${this.stepRunId}/log?${query}`, this.signal);
      const offset = Number(answer.headers.get("X-Log-Offset"));
      const text = await answer.text();
      if (isFirst || isBehind) this.#startAt(offset);
      this.next = Number(answer.headers.get("X-Log-Next"));
      this.size = Number(answer.headers.get("X-Log-Size"));
      this.isFinal = answer.headers.get("X-Log-Final") === "1";
      this.#take(isFirst || isBehind ? wholeLines(text, offset) : text);
    } finally {
      this.isFetching = false;
    }
  }

  #follow() {
    return `offset=${this.next}&limit=${NEXT_BYTES}`;
  }

  /** @param {number} offset */
  #startAt(offset) {
    this.lines = [];
    this.rest = "";
    this.before = offset;
  }

  /** @param {string} text */
  #take(text) {
    const parts = (this.rest + text).split("\n");
    this.rest = parts.pop() ?? "";
    this.count += parts.length;
    for (const part of parts.slice(-LINES_KEPT)) this.lines.push(asShown(part));
    this.lines = this.lines.slice(-LINES_KEPT);
  }
}

/** A line as a terminal would leave it: what follows the last return, without escapes. Characters
 * that would change how the rest is read are named instead.
 * @param {string} line */
export function asShown(line) {
  const text = line.endsWith("\r") ? line.slice(0, -1) : line;
  return text
    .slice(text.lastIndexOf("\r") + 1)
    .replace(ESCAPES, "")
    .replace(CONTROLS, named);
}

/** @param {string} character */
function named(character) {
  return `<U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
}

/** @param {string} text @param {number} offset */
function wholeLines(text, offset) {
  const end = text.indexOf("\n");
  return offset === 0 || end === -1 ? text : text.slice(end + 1);
}
