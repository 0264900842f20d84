// @ts-check
// The dashboard: cards of active runs that follow the table socket.
import { Clock } from "../lib/clock.js";
import { byId, glyph, make, one, setAttribute, setHidden, setText } from "../lib/dom.js";
import { duration, plural } from "../lib/format.js";
import { onNextFrame, ticker } from "../lib/frames.js";
import { ApiError, address, getJson, giveUp, postJson } from "../lib/http.js";
import { LiveSocket } from "../lib/socket.js";
import {
  activity,
  cancelledInWords,
  FINAL_RUN,
  lower,
  runShown,
  stopsRunningSteps,
  word,
} from "../lib/words.js";
import { announce } from "../ui/announce.js";
import { opens, Question } from "../ui/question.js";
import { toast } from "../ui/toast.js";
import { item, lostWarning } from "../views/cancel.js";
import { ConnectionView } from "../views/connection.js";
import { drawSegments } from "../views/segments.js";

/**
 * @typedef {import("../lib/store.js").Run} Run
 * @typedef {{now: string, runs: Run[], left_out: number, workers: {alive: number, slots: number, busy: number}}} Table
 * @typedef {{before: number, after: number, done: number, total: number,
 *   nodes: [string, string][]}} Rail
 */

const CARDS = 12;
const ENDED_SHOWN_MS = 60_000;
const RAILS_APART_MS = 1000;
const PARTS_APART_MS = 3000;
const REFUSALS = new Set([401, 403, 404]);
/** Parts of the page that the server draws anew when a run has ended. */
const PARTS = ["recent-title", "attention-title", "batches-title"];

const clock = new Clock();
/** @type {Table | null} */
let table = null;
/** @type {Map<number, string>} Status of each run when it was drawn last. */
let statuses = new Map();
/** @type {Map<number, {sequence: number, rail: Rail | null}>} */
const rails = new Map();
let drawnSequence = 0;

const render = onNextFrame(() => {
  if (!table) return;
  const runs = shownRuns(table.runs);
  renderWorkers(table.workers);
  renderCards(runs);
  const active = runs.filter((run) => !FINAL_RUN.has(run.status)).length;
  setText(byId("running-count"), active ? `${active + table.left_out} active` : "");
  renderCancelAll(active > 0);
  setHidden(byId("nothing-running"), runs.length > 0);
  document.documentElement.dataset.sequence = String(drawnSequence);
});

/** @param {Run[]} runs */
function shownRuns(runs) {
  const isFresh = (/** @type {Run} */ run) =>
    !run.finished_at || clock.now() - Date.parse(run.finished_at) < ENDED_SHOWN_MS;
  return runs.filter(isFresh).slice(0, CARDS);
}

/** @param {Table["workers"]} workers */
function renderWorkers(workers) {
  byId("workers").dataset.alive = String(workers.alive);
  const busy = `${plural(workers.alive, "worker")}, busy ${workers.busy}/${workers.slots}`;
  setText(byId("workers-text"), workers.alive ? busy : "no worker");
  setHidden(byId("no-worker"), workers.alive > 0);
}

/** @param {Run[]} runs */
function renderCards(runs) {
  const place = byId("run-cards");
  const known = new Map(
    [...place.children].map((card) => [Number(card.getAttribute("data-run")), card]),
  );
  runs.forEach((run, at) => {
    const card = /** @type {HTMLElement} */ (known.get(run.id) ?? newCard());
    known.delete(run.id);
    patchCard(card, run);
    if (place.children[at] !== card) place.insertBefore(card, place.children[at] ?? null);
  });
  for (const card of known.values()) card.remove();
}

function newCard() {
  const template = /** @type {HTMLTemplateElement} */ (byId("run-card"));
  return /** @type {HTMLElement} */ (one(template.content, ".run-card").cloneNode(true));
}

/** @param {HTMLElement} card @param {Run} run */
function patchCard(card, run) {
  const status = runShown(run);
  const isFinal = FINAL_RUN.has(run.status);
  card.dataset.run = String(run.id);
  card.dataset.sequence = String(run.sequence);
  patchTitle(card, run);
  if (card.dataset.status !== status) {
    card.dataset.status = status;
    const pill = make("span", { class: "pill", "data-status": status });
    pill.append(glyph(status, 16), make("span", {}, word(status)));
    one(card, ".pill").replaceWith(pill);
  }
  const counts = { ...run.counts };
  if (stopsRunningSteps(run)) {
    counts.cancelling = counts.running;
    counts.running = 0;
  }
  const open = run.counts.pending + run.counts.running;
  setText(one(card, "[data-done]"), (run.total - open).toLocaleString("en"));
  setText(one(card, "[data-total]"), run.total.toLocaleString("en"));
  drawSegments(one(card, "[data-segments]"), counts);
  setText(one(card, "[data-waiting]"), run.waiting);
  setHidden(one(card, "[data-waiting]"), !run.waiting);
  const missed = run.counts.failed + run.counts.timed_out + run.counts.interrupted;
  setText(one(card, "[data-missed]"), missed ? `${missed} missed · ` : "");
  const cancel = card.querySelector("[data-cancel-link]");
  if (cancel) {
    setAttribute(cancel, "href", address(`runs/${run.id}/cancel/`));
    setHidden(cancel, isFinal || stopsRunningSteps(run));
  }
  drawRail(one(card, "[data-rail]"), run.id);
  patchClock(card, run);
}

/** @param {HTMLElement} card @param {Run} run */
function patchTitle(card, run) {
  const title = one(card, ".title");
  setAttribute(title, "href", address(`runs/${run.id}/`));
  const text = `${run.batch.name} #${run.id}`;
  if (title.textContent?.trim().replace(/\s+/g, " ") !== text) {
    title.replaceChildren(`${run.batch.name} `, make("span", {}, `#${run.id}`));
  }
  const who = card.querySelector("[data-who]");
  if (who) setText(who, run.triggered_by || "nobody");
}

/** @param {HTMLElement} card @param {Run} run */
function patchClock(card, run) {
  const seconds = clock.seconds(run.started_at, run.finished_at);
  const place = one(card, "[data-clock]");
  if (!place.firstElementChild) place.append(make("span", { class: "num" }));
  const text = seconds === null ? "" : duration(seconds);
  setText(/** @type {Element} */ (place.firstElementChild), text);
}

// ---- rails

/** @param {HTMLElement} place @param {number} runId */
function drawRail(place, runId) {
  const rail = rails.get(runId)?.rail;
  if (!rail) return;
  const state = JSON.stringify(rail);
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  const label = `Critical lane: ${rail.done} of ${rail.total} done`;
  const box = make("div", { class: "small-rail", role: "img", "aria-label": label });
  if (rail.before) box.append(make("span", { class: "more" }, `${rail.before} done`));
  for (const [name, status] of rail.nodes) {
    const title = `${name}: ${lower(status)}`;
    const node = make("span", { class: "small-node", "data-status": status, title });
    node.append(glyph(status, 16));
    box.append(node);
  }
  if (rail.after) box.append(make("span", { class: "more" }, `${rail.after} more`));
  place.replaceChildren(box);
}

async function fetchRails() {
  const wanted = shownRuns(table?.runs ?? []).filter(
    (run) => rails.get(run.id)?.sequence !== run.sequence,
  );
  if (!wanted.length || document.hidden) return;
  const url = new URL(byId("main").dataset.railsUrl ?? "", location.href);
  for (const run of wanted) url.searchParams.append("run", String(run.id));
  const path = url.pathname.slice(address("").length) + url.search;
  const answer = await getJson(path).catch(() => null);
  if (!answer) return;
  for (const run of wanted) {
    rails.set(run.id, { sequence: run.sequence, rail: answer.rails[run.id] ?? null });
  }
  render();
}

// ---- parts that the server draws

let partsTimer = 0;
/** Whether a run has ended since they were asked for. */
let arePartsOld = false;

function redrawPartsSoon() {
  arePartsOld = true;
  partsTimer ||= setTimeout(redrawParts, PARTS_APART_MS / 10);
}

async function redrawParts() {
  arePartsOld = false;
  try {
    const response = await fetch(location.href, { credentials: "same-origin" });
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of PARTS) {
      const fresh = page.getElementById(id)?.closest("section");
      const old = document.getElementById(id)?.closest("section");
      if (fresh && old && !old.contains(document.activeElement)) {
        old.replaceWith(document.adoptNode(fresh));
      }
    }
  } catch {
    // The next run that ends tries again; the cards do not depend on it.
  } finally {
    setTimeout(() => {
      partsTimer = 0;
      if (arePartsOld) redrawPartsSoon();
    }, PARTS_APART_MS);
  }
}

// ---- cancelling everything

/** @type {Question | null} */
const cancelAll = (() => {
  const link = document.getElementById("cancel-all");
  if (!link) return null;
  const dialog = /** @type {HTMLDialogElement} */ (byId("cancel-dialog"));
  const question = new Question(dialog, { items: cancelItems, answer: requestCancelAll });
  opens(link, () => {
    // Before the first frame nothing is known; the page behind the link knows.
    if (!table) return false;
    question.open();
    return true;
  });
  return question;
})();

/** @param {boolean} isActive */
function renderCancelAll(isActive) {
  if (!cancelAll) return;
  setHidden(byId("cancel-all"), !isActive);
  if (isActive) cancelAll.render();
  else cancelAll.close();
}

function cancelItems() {
  const runs = (table?.runs ?? []).filter((run) => !FINAL_RUN.has(run.status));
  const left = table?.left_out ?? 0;
  const all = runs.length + left;
  const which = all === 1 ? "the one active run" : `all ${all.toLocaleString("en")} active runs`;
  setText(byId("cancel-title"), `Cancel ${which}?`);
  const items = runs.map((run) =>
    item(runShown(run), make("b", {}, `${run.batch.name} #${run.id}`), `: ${activity(run)}`),
  );
  if (left) items.push(item("queued", "and ", make("b", {}, `${left.toLocaleString("en")} more`)));
  return [...lostWarning(), ...items];
}

/** @param {FormData} data */
async function requestCancelAll(data) {
  announce("Cancelling everything");
  try {
    const asked = { mode: data.get("mode") ?? "stop", note: data.get("note") ?? "" };
    const answer = await postJson("api/runs/cancel", asked, giveUp());
    toast(cancelledInWords(answer.cancelled.length));
    if (document.documentElement.dataset.live !== "open") await catchUp();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    toast(`Not everything was cancelled, perhaps nothing. ${error.message}`, "error");
  }
}

// ---- what comes

/** @param {Table} fresh */
function take(fresh) {
  clock.sync(fresh.now);
  table = fresh;
  drawnSequence += 1;
  const now = new Map(fresh.runs.map((run) => [run.id, runShown(run)]));
  for (const run of fresh.runs) {
    const before = statuses.get(run.id);
    const status = runShown(run);
    if (before && before !== status) announce(`${run.batch.name} ${run.id}: ${lower(status)}`);
    if (FINAL_RUN.has(run.status) && before !== run.status) redrawPartsSoon();
  }
  statuses = now;
  for (const id of rails.keys()) if (!now.has(id)) rails.delete(id);
  render();
  connection.caughtUp();
}

async function catchUp() {
  try {
    take(await getJson("api/runs?active=1"));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (REFUSALS.has(error.status)) return error.status;
  }
  return null;
}

const socket = new LiveSocket({
  path: () => "ws/runs/",
  onFrame: (frame) => {
    if (frame.now) clock.sync(frame.now);
    if (frame.type !== "runs") {
      connection.caughtUp();
      return null;
    }
    take(frame);
    return frame.n ?? null;
  },
  onConnection: (state) => {
    connection.show(state);
    render();
  },
  catchUp,
});

const connection = new ConnectionView({
  sequence: () => 0,
  serverTime: () => clock.now(),
  retry: () => socket.retryNow(),
  subject: "runs",
});

ticker(
  () => {
    for (const run of table ? shownRuns(table.runs) : []) {
      const card = document.querySelector(`.run-card[data-run="${run.id}"]`);
      if (card instanceof HTMLElement) patchClock(card, run);
    }
  },
  () => table !== null,
);
setInterval(fetchRails, RAILS_APART_MS);
setInterval(render, 10_000);
connection.show({ kind: "connecting" });
socket.connect();
