// @ts-check
// How statuses and waits are put before people; executions/presentation.py says the same for the
// first paint. A change here belongs there too.
import { duration, limit, plural } from "./format.js";

/** @type {Record<string, string>} */
export const WORDS = {
  pending: "Pending",
  queued: "Queued",
  running: "Running",
  cancelling: "Cancelling",
  succeeded: "Succeeded",
  partially_succeeded: "Partially succeeded",
  failed: "Failed",
  timed_out: "Timed out",
  interrupted: "Interrupted",
  cancelled: "Cancelled",
  skipped: "Skipped",
};

/** Step statuses in the order in which people want to see them. */
export const ATTENTION = [
  "failed",
  "timed_out",
  "interrupted",
  "cancelling",
  "running",
  "pending",
  "cancelled",
  "skipped",
  "succeeded",
];

/** Step statuses in the order of the progress bar: what is over comes first. */
export const SEGMENTS = [
  "succeeded",
  "failed",
  "timed_out",
  "interrupted",
  "cancelled",
  "skipped",
  "cancelling",
  "running",
  "pending",
];

export const MISSED = new Set(["failed", "timed_out", "interrupted"]);
export const FINAL_STEP = new Set([...MISSED, "succeeded", "cancelled", "skipped"]);
export const FINAL_RUN = new Set(["succeeded", "partially_succeeded", "failed", "cancelled"]);

/** @param {string} status */
export const word = (status) => WORDS[status] ?? status;

/** @param {string} status */
export const lower = (status) => word(status).toLowerCase();

/** @param {Record<string, number>} counts */
export function inWords(counts) {
  const parts = SEGMENTS.filter((s) => counts[s]).map((s) => `${counts[s]} ${lower(s)}`);
  return parts.join(", ") || "no steps";
}

/** What a run's status is shown as: `cancelling` once a cancel was asked for.
 * @param {import("./store.js").Run} run */
export function runShown(run) {
  return !FINAL_RUN.has(run.status) && run.cancel_requested_at ? "cancelling" : run.status;
}

/** Whether a cancel of the run was asked for that also ends what runs.
 * @param {import("./store.js").Run} run */
export function stopsRunningSteps(run) {
  return runShown(run) === "cancelling" && run.cancel_mode !== "drain";
}

/** How far a cancel of the run has come: `draining: 2 steps still running`; else empty.
 * @param {import("./store.js").RunStore} store */
export function stoppingInWords(store) {
  if (store.runShown !== "cancelling") return "";
  const verb = store.isStopping ? "stopping" : "draining";
  return `${verb}: ${plural(store.summary().running.length, "step")} still running`;
}

/** What a cancel of this active run would meet: `2 steps running, 5 pending`.
 * @param {import("./store.js").Run} run */
export function activity({ status, counts }) {
  const pending = counts.pending.toLocaleString("en");
  if (status === "queued") return `queued, ${plural(counts.pending, "step")} pending`;
  const rest = counts.pending ? `, ${pending} pending` : "";
  return `${plural(counts.running, "step")} running${rest}`;
}

/** The answer to a request to cancel everything.
 * @param {number} runs */
export function cancelledInWords(runs) {
  return runs ? `The cancel reached ${plural(runs, "run")}.` : "No run was active any more.";
}

/** @param {number | null} number */
export function processesInWords(number) {
  return number === null ? "" : `${number} process${number === 1 ? "" : "es"}`;
}

/** What a pending step waits for.
 * @param {import("./store.js").RunStore} store @param {number} index */
export function waitOf(store, index) {
  const { run } = store;
  if (run.status === "queued") return run.waiting || "waits for a worker";
  if (runShown(run) === "cancelling") return "will not start: the run is being cancelled";
  if (store.get(index, "retry_at")) {
    return `attempt ${store.get(index, "attempt") + 1} comes after a pause`;
  }
  const { criticalNow, busy } = store.summary();
  if (store.get(index, "lane") === "critical") {
    return criticalNow !== -1 && criticalNow !== index
      ? `waits for ${store.get(criticalNow, "name")}`
      : "starts next";
  }
  if (run.pool_start === "after_critical" && criticalNow !== -1) {
    return "waits for the critical lane";
  }
  return busy >= run.pool_width ? `pool full ${busy}/${run.pool_width}` : "starts next";
}

/** The sentence below a step's name: why it is where it is.
 * @param {import("./store.js").RunStore} store @param {number} index */
export function lineOf(store, index) {
  const attempt = store.get(index, "attempt");
  const text = sentence(store, index);
  return attempt > 1 ? `attempt ${attempt} · ${text}` : text;
}

/** @param {import("./store.js").RunStore} store @param {number} index @returns {string} */
function sentence(store, index) {
  const status = store.get(index, "status");
  const slot = store.get(index, "slot");
  if (store.get(index, "abandoned_at") && !FINAL_RUN.has(store.run.status)) {
    const held = slot ? `keeps slot ${slot}` : "keeps the critical lane";
    return `did not stop when asked; its thread still runs and ${held}`;
  }
  if (status === "pending") return waitOf(store, index);
  if (store.shown(index) === "cancelling") return "asked to stop; cancelled when that is proven";
  if (status === "running" || status === "succeeded") return store.get(index, "because");
  const said = store.get(index, "message") || store.get(index, "reason").replaceAll("_", " ");
  return said || store.get(index, "because");
}

const TREE =
  "SIGTERM to the whole process tree, SIGKILL after the grace, until no process is left.";
/** @type {Record<string, string>} */
const CONSEQUENCES = {
  python:
    "asked to stop. Code that does not return within its grace is abandoned and keeps its slot.",
  command: TREE,
  management: TREE,
  http: "the connection is closed. The server may go on with the request.",
};

/** What a cancel does to a running step; follows its name and a colon.
 * @param {string} kind @param {boolean} isProtected */
export function consequence(kind, isProtected) {
  if (isProtected) return "protected. Only its end or its timeout ends it.";
  return CONSEQUENCES[kind] ?? "asked to stop.";
}

// ---- receipts

/** @typedef {{by: string, at: string, note: string, text: string, doubt: string}} Receipt */

/** What is known of the end that a step was brought to, or will be; null if it needed none.
 * @param {import("./store.js").RunStore} store @param {number} index @returns {Receipt | null} */
export function receiptOf(store, index) {
  const get = (/** @type {string} */ name) => store.get(index, name);
  const isRun = get("reason") === "run_cancelled" || store.shown(index) === "cancelling";
  const asked = get("cancel_requested_at") ? "step" : isRun ? "run" : "";
  const isTimedOut = get("status") === "timed_out";
  if (!(asked || isTimedOut || get("receipt") || get("abandoned_at"))) return null;
  const fact = (/** @type {"at" | "by"} */ what) =>
    (asked === "step" ? get(`cancel_requested_${what}`) : store.run[`cancel_requested_${what}`]) ??
    "";
  const at = asked ? fact("at") : "";
  const isShown = asked && !isTimedOut;
  return {
    by: isShown ? fact("by") : "",
    at: isShown ? at : "",
    note: isShown ? (asked === "step" ? get("cancel_note") : store.run.cancel_note) : "",
    text: ending(store, index, at),
    doubt: doubt(store, index),
  };
}

/** The message of a step, unless its receipt tells the same and more.
 * @param {Receipt | null} receipt @param {import("./store.js").RunStore} store
 * @param {number} index @returns {string} */
export function messageBeside(receipt, store, index) {
  const isEnded = ["cancelled", "timed_out"].includes(store.get(index, "status"));
  const isTold = receipt && (isEnded || store.get(index, "abandoned_at"));
  return isTold ? "" : store.get(index, "message");
}

/** @param {import("./store.js").RunStore} store @param {number} index @param {string} askedAt */
function ending(store, index, askedAt) {
  const status = store.get(index, "status");
  const finished = store.get(index, "finished_at");
  const killed = store.get(index, "receipt");
  if (!finished) return "Asked to stop; shown as cancelled when that is proven.";
  if (!store.get(index, "started_at")) return "It had not started.";
  const isTimedOut = status === "timed_out";
  const before = `Its limit of ${limit(store.get(index, "timeout_seconds"))} was reached.`;
  if (killed) return isTimedOut ? `${before} ${killing(killed)}` : killing(killed);
  if (isTimedOut || !askedAt) return isTimedOut ? before : "";
  const later = duration((Date.parse(finished) - Date.parse(askedAt)) / 1000);
  if (status === "cancelled") return `Cancelled ${later} later.`;
  const isOwnEnd = status === "succeeded" || status === "failed";
  return isOwnEnd ? `It came to its own end first, ${later} after the request.` : "";
}

/** @param {Record<string, any>} receipt */
function killing(receipt) {
  const left = receipt.after_exit ? "It ended by itself and left something running. " : "";
  const signals = (receipt.signals ?? []).join(", then ");
  const whom = processesInWords(receipt.processes ?? null);
  const none = receipt.proven_empty ? "none left" : "not proven that none is left";
  const after = duration(receipt.seconds ?? 0);
  const level = receipt.kill_level ?? "unknown";
  return `${left}${signals} to ${whom}; ${none} after ${after}. Kill level: ${level}.`;
}

/** @param {import("./store.js").RunStore} store @param {number} index */
function doubt(store, index) {
  const { host, pid } = store.run.worker ?? { host: "its host", pid: 0 };
  const receipt = store.get(index, "receipt");
  if (store.get(index, "abandoned_at")) {
    const slot = store.get(index, "slot");
    const lane = slot ? `slot ${slot} of ${store.run.pool_width}` : "the critical lane";
    const keeps = `keeps ${lane} until it returns`;
    return (
      `It did not return when asked and may still be running in worker process ${pid} on ` +
      `${host}; it ${store.isFinal ? "ends when that process is replaced" : keeps}. Look at ` +
      "what it did before you run it again."
    );
  }
  if (!receipt || receipt.proven_empty) return "";
  const pids = (receipt.unknown_pids ?? []).join(",");
  const all = `grep -ls STEPSITE_STEP=${store.run.id}: /proc/*/environ`;
  return (
    `Something of it may still be running. Look on ${host} with “${pids ? `ps -fp ${pids}` : all}” ` +
    "and end what belongs to this step before you run it again."
  );
}
