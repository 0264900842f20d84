// @ts-check
import { ATTENTION, FINAL_RUN, FINAL_STEP, MISSED, runShown, stopsRunningSteps } from "./words.js";

/**
 * @typedef {{slug: string, name: string}} BatchRef
 * @typedef {{
 *   id: number, batch: BatchRef, status: string, reason: string, sequence: number, total: number,
 *   counts: Record<string, number>, pool_width: number, pool_start: string,
 *   failure_policy: string, cancel_requested_at: string | null, cancel_requested_by: string,
 *   cancel_note: string, cancel_mode: string, triggered_by: string, queued_at: string | null,
 *   started_at: string | null, finished_at: string | null, waiting: string,
 *   worker: {host: string, pid: number} | null,
 * }} Run
 * @typedef {{to: number, now: string, run: Run, columns: string[], steps: any[][],
 *   can?: {cancel: boolean}}} Snapshot
 * @typedef {{from: number, to: number, now: string, run: Run, columns: string[],
 *   steps: any[][]}} Changes
 * @typedef {{
 *   counts: Record<string, number>, finished: number, criticalNow: number, criticalDone: number,
 *   busy: number, slots: Map<number, number>, firstMiss: number, running: number[],
 *   poolPending: number,
 * }} Summary
 */

/** Everything that is known of one run: rows as they came, and what follows from them.
 *
 * Rows hold absolute values and carry the sequence of their last change, so applying one twice is
 * harmless, and of two the one with the higher sequence is true.
 */
export class RunStore {
  /** @type {Run} */
  run;
  /** The last change of the run that the rows hold. */
  sequence = 0;
  /** Raised with everything that may look different. */
  version = 0;
  canCancel = false;
  /** @type {any[][]} */
  #rows = [];
  /** @type {Map<string, number>} */
  #column = new Map();
  /** @type {Map<number, number>} Place of each step run by its id. */
  #place = new Map();
  /** @type {number[]} Places of the critical steps, in order. */
  critical = [];
  /** @type {Uint8Array} Place in ATTENTION of each step as it is shown. */
  #ranks = new Uint8Array(0);
  /** @type {Set<number>} Ids of steps whose cancel was clicked and is not known to the server yet. */
  #asked = new Set();
  /** Mode of a cancel of the run that was clicked and is not known to the server yet. */
  #runAsked = "";
  /** @type {Summary | null} */
  #summary = null;

  /** @param {Snapshot} snapshot */
  constructor(snapshot) {
    this.run = snapshot.run;
    this.reset(snapshot);
  }

  get size() {
    return this.#rows.length;
  }

  /** Start again from a snapshot.
   * @param {Snapshot} snapshot */
  reset(snapshot) {
    this.#column = new Map(snapshot.columns.map((name, place) => [name, place]));
    this.#rows = snapshot.steps;
    this.#place = new Map(this.#rows.map((_, index) => [this.id(index), index]));
    this.critical = [...this.#rows.keys()].filter((i) => this.get(i, "lane") === "critical");
    this.#ranks = new Uint8Array(this.#rows.length);
    this.canCancel = snapshot.can?.cancel ?? this.canCancel;
    this.run = snapshot.run;
    this.sequence = snapshot.to;
    this.#asked.clear();
    this.#runAsked = "";
    this.#rankAll();
  }

  /** Take in what changed; `gap` if changes between what is known and these are missing.
   * @param {Changes} changes @returns {"applied" | "known" | "gap"} */
  apply(changes) {
    if (changes.from > this.sequence) return "gap";
    if (changes.to <= this.sequence) return "known";
    const stopped = this.#stops();
    this.run = changes.run;
    this.sequence = changes.to;
    if (changes.run.cancel_requested_at) this.#runAsked = "";
    for (const row of this.#mapped(changes)) this.#rank(row);
    if (stopped !== this.#stops()) this.#rankAll();
    this.#touch();
    return "applied";
  }

  /** Merges rows and gives the places of those that changed.
   * @param {Changes} changes */
  *#mapped({ columns, steps }) {
    const targets = columns.map((name) => this.#column.get(name) ?? -1);
    const idAt = columns.indexOf("id");
    const sequenceAt = columns.indexOf("sequence");
    const own = this.#column.get("sequence") ?? -1;
    for (const step of steps) {
      const index = this.#place.get(step[idAt]);
      if (index === undefined) continue;
      const row = this.#rows[index];
      if (row[own] > step[sequenceAt]) continue;
      for (let i = 0; i < targets.length; i += 1) {
        if (targets[i] !== -1) row[targets[i]] = step[i];
      }
      yield index;
    }
  }

  /** What a beat says of a run in the queue.
   * @param {string | undefined} waiting */
  setWaiting(waiting) {
    if (waiting === undefined || waiting === this.run.waiting) return;
    this.run = { ...this.run, waiting };
    this.#touch();
  }

  /** @param {number} index @param {string} name @returns {any} */
  get(index, name) {
    return this.#rows[index][/** @type {number} */ (this.#column.get(name))];
  }

  /** @param {number} index @returns {number} */
  id(index) {
    return this.get(index, "id");
  }

  /** @param {number} id */
  placeOf(id) {
    return this.#place.get(id) ?? -1;
  }

  /** The status of a step as it is shown: `cancelling` once that was asked for.
   * @param {number} index */
  shown(index) {
    return ATTENTION[this.#ranks[index]];
  }

  /** The status of the run as it is shown. */
  get runShown() {
    return this.#runAsked && !this.isFinal ? "cancelling" : runShown(this.run);
  }

  get isFinal() {
    return FINAL_RUN.has(this.run.status);
  }

  /** Whether a person with the right may cancel this step now.
   * @param {number} index */
  isCancellable(index) {
    const status = this.shown(index);
    return status === "pending" || (status === "running" && !this.get(index, "protected"));
  }

  // ---- clicks that the server has not confirmed yet

  /** @param {number} id */
  askCancel(id) {
    this.#asked.add(id);
    this.#rank(this.placeOf(id));
    this.#touch();
  }

  /** The click came to nothing.
   * @param {number} id */
  takeBack(id) {
    this.#asked.delete(id);
    this.#rank(this.placeOf(id));
    this.#touch();
  }

  /** @param {"drain" | "stop" | ""} mode Empty: the click came to nothing. */
  askCancelRun(mode) {
    this.#runAsked = mode;
    this.#rankAll();
  }

  /** Whether everything that runs is being ended. */
  get isStopping() {
    return !this.isFinal && this.#stops();
  }

  #stops() {
    return this.#runAsked === "stop" || stopsRunningSteps(this.run);
  }

  /** @param {number} index */
  #rank(index) {
    let status = this.get(index, "status");
    if (this.get(index, "cancel_requested_at") || FINAL_STEP.has(status)) {
      this.#asked.delete(this.id(index));
    }
    const isAsked = this.get(index, "cancel_requested_at") || this.#asked.has(this.id(index));
    if (status === "running" && !this.get(index, "protected")) {
      if (isAsked || this.#stops()) status = "cancelling";
    } else if (status === "pending" && isAsked) {
      status = "cancelling";
    }
    this.#ranks[index] = ATTENTION.indexOf(status);
  }

  #rankAll() {
    for (let index = 0; index < this.#rows.length; index += 1) this.#rank(index);
    this.#touch();
  }

  #touch() {
    this.version += 1;
    this.#summary = null;
  }

  // ---- what follows from all rows

  /** Places of the steps, what needs attention first, each status in the order of the plan.
   * @param {(index: number) => boolean} [isWanted] */
  sorted(isWanted) {
    /** @type {number[][]} */
    const buckets = ATTENTION.map(() => []);
    for (let index = 0; index < this.#ranks.length; index += 1) {
      if (!isWanted || isWanted(index)) buckets[this.#ranks[index]].push(index);
    }
    return buckets.flat();
  }

  /** Counted once for each version.
   * @returns {Summary} */
  summary() {
    this.#summary ??= this.#count();
    return this.#summary;
  }

  /** @returns {Summary} */
  #count() {
    const numbers = new Uint32Array(ATTENTION.length);
    const running = [];
    let poolPending = 0;
    /** @type {Map<number, number>} */
    const slots = new Map();
    let firstMiss = -1;
    for (let index = 0; index < this.#ranks.length; index += 1) {
      const rank = this.#ranks[index];
      numbers[rank] += 1;
      const status = ATTENTION[rank];
      if (status === "succeeded") continue;
      if (this.get(index, "status") === "running") running.push(index);
      if (status === "pending" && this.get(index, "lane") === "pool") poolPending += 1;
      if (MISSED.has(status)) firstMiss = this.#earlierMiss(firstMiss, index);
      const slot = this.get(index, "slot");
      if (slot && (this.get(index, "abandoned_at") || this.get(index, "status") === "running")) {
        slots.set(slot, index);
      }
    }
    const counts = Object.fromEntries(ATTENTION.map((status, rank) => [status, numbers[rank]]));
    const done = this.critical.filter((index) => FINAL_STEP.has(this.shown(index)));
    const next = this.critical.find((index) => !FINAL_STEP.has(this.shown(index)));
    return {
      counts,
      finished: this.size - counts.pending - counts.running - counts.cancelling,
      criticalNow: next ?? -1,
      criticalDone: done.length,
      busy: slots.size,
      slots,
      firstMiss,
      running,
      poolPending,
    };
  }

  /** Of two misses the one to look at first: a critical one, else the earlier.
   * @param {number} a @param {number} b */
  #earlierMiss(a, b) {
    if (a === -1) return b;
    const isCritical = this.get(b, "lane") === "critical";
    if (isCritical !== (this.get(a, "lane") === "critical")) return isCritical ? b : a;
    return this.get(b, "finished_at") < this.get(a, "finished_at") ? b : a;
  }
}
