// @ts-check
// How statuses and waits are put before people; executions/presentation.py says the same for the
// first paint. A change here belongs there too.

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
