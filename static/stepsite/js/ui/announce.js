// @ts-check
import { byId } from "../lib/dom.js";

const APART_MS = 5000;

/** @type {string[]} */
let waiting = [];
let isWaiting = false;
let saidAt = -Infinity;

/** Say something to people who listen to the page: politely, and gathered to one message per 5 s.
 * @param {string} text */
export function announce(text) {
  waiting.push(text);
  if (isWaiting) return;
  isWaiting = true;
  setTimeout(say, Math.max(0, saidAt + APART_MS - performance.now()));
}

function say() {
  byId("announcer").textContent = waiting.join(". ");
  waiting = [];
  isWaiting = false;
  saidAt = performance.now();
}
