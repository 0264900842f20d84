// @ts-check
import { ApiError, getJson } from "./http.js";

/**
 * @typedef {{id: number, position: number, name: string, kind: string, text: string,
 *   processes: number | null}} StepForecast
 */

const AGAIN_MS = 2000;

/** What the server says a cancel would do right now, asked anew for as long as it is wanted. */
export class Forecast {
  /** @type {Map<number, StepForecast>} */
  #steps = new Map();
  #timer = 0;
  /** @type {AbortController | null} */
  #abort = null;

  /** @param {number} runId @param {() => void} changed */
  constructor(runId, changed) {
    this.runId = runId;
    this.changed = changed;
  }

  /** @param {number} stepRunId */
  of(stepRunId) {
    return this.#steps.get(stepRunId) ?? null;
  }

  start() {
    this.stop();
    this.#ask(new AbortController());
  }

  stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
    this.#steps.clear();
  }

  /** @param {AbortController} abort */
  async #ask(abort) {
    this.#abort = abort;
    /** @type {StepForecast[]} */
    let steps = [];
    try {
      ({ steps } = await getJson(`api/runs/${this.runId}/forecast`, abort.signal));
    } catch (error) {
      // Without an answer nothing is known but what the kind of a step tells.
      if (!abort.signal.aborted && !(error instanceof ApiError)) throw error;
    }
    if (abort.signal.aborted) return;
    this.#steps = new Map(steps.map((step) => [step.id, step]));
    this.changed();
    this.#timer = setTimeout(() => this.#ask(abort), AGAIN_MS);
  }
}
