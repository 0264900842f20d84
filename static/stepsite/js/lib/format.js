// @ts-check
// Numbers and times as people read them; executions/presentation.py does the same on the server.

/** Such as `340 ms`, `6.2s`, `4m 12.4s`, `1h 04m 12s`, `2d 03h 10m`.
 * @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(seconds, 0);
  if (s < 1) return `${Math.floor(s * 1000)} ms`;
  if (s < 60) return `${tenths(s)}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${tenths(s % 60)}s`;
  const minutes = Math.floor(s / 60) % 60;
  const hours = Math.floor(s / 3600);
  if (hours < 24) return `${hours}h ${two(minutes)}m ${two(Math.floor(s % 60))}s`;
  return `${Math.floor(hours / 24)}d ${two(hours % 24)}h ${two(minutes)}m`;
}

/** A limit that somebody set: `45 s`, `10 min`, `2 h`.
 * @param {number} seconds */
export function limit(seconds) {
  if (seconds >= 3600 && seconds % 3600 === 0) return `${seconds / 3600} h`;
  if (seconds >= 60 && seconds % 60 === 0) return `${seconds / 60} min`;
  return `${Number(seconds.toPrecision(6))} s`;
}

/** @param {number} seconds */
export function ago(seconds) {
  if (seconds < 5) return "just now";
  for (const [size, noun] of UNITS) {
    const number = Math.floor(seconds / size);
    if (number > 0) return `${number} ${noun}${number === 1 ? "" : "s"} ago`;
  }
  return "just now";
}

/** @param {number} number */
export function bytes(number) {
  if (number < 1024) return `${number} B`;
  const kib = number / 1024;
  return kib < 1024 ? `${kib.toFixed(1)} KiB` : `${(kib / 1024).toFixed(1)} MiB`;
}

/** @param {number} number @param {string} noun */
export function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** @param {string} text */
export function shortTime(text) {
  return new Date(text).toLocaleTimeString("en-GB");
}

/** @type {[number, string][]} */
const UNITS = [
  [86400, "day"],
  [3600, "hour"],
  [60, "minute"],
  [1, "second"],
];

/** @param {number} seconds */
const tenths = (seconds) => (Math.floor(seconds * 10) / 10).toFixed(1);

/** @param {number} number */
const two = (number) => String(number).padStart(2, "0");
