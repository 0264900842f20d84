// @ts-check
// The run page: puts store, socket and views together.
import { Clock } from "../lib/clock.js";
import { byId } from "../lib/dom.js";
import { Forecast } from "../lib/forecast.js";
import { onNextFrame, ticker } from "../lib/frames.js";
import { ApiError, getJson, giveUp, postJson } from "../lib/http.js";
import { LiveSocket } from "../lib/socket.js";
import { RunStore } from "../lib/store.js";
import { FINAL_STEP, lower } from "../lib/words.js";
import { announce } from "../ui/announce.js";
import { refusal, toast } from "../ui/toast.js";
import { CancelDialog, CancelStepDialog } from "../views/cancel.js";
import { ConnectionView } from "../views/connection.js";
import { HeaderView, renderCancelButton } from "../views/header.js";
import { LogView } from "../views/log.js";
import { PoolView } from "../views/pool.js";
import { RailView } from "../views/rail.js";
import { newsBetween, StepsView } from "../views/steps.js";
import { VerdictView } from "../views/verdict.js";

/** Statuses that end the attempts to reach the server. */
const REFUSALS = new Set([401, 403, 404]);
const SNAPSHOT_RETRY_MS = 2000;
/** How long the output of a step that ended stays before the page follows the next one. */
const LINGER_MS = 2500;

const runId = Number(byId("main").dataset.run);
const clock = new Clock();

/** @param {RunStore} store */
function start(store) {
  /** Whether a person chose the step whose output is shown. */
  let isChosen = false;
  let endedAt = 0;
  let lingering = 0;
  let counts = { ...store.summary().counts };
  let runStatus = store.runShown;
  let isLost = false;

  const render = onNextFrame(() => {
    chooseByItself();
    renderCancelButton(store);
    for (const view of [header, pool, verdict, rail, steps, log]) view.render();
    dialog?.render();
    stepDialog?.render();
    document.documentElement.dataset.sequence = String(store.sequence);
    document.documentElement.dataset.steps = String(store.size);
  });

  /** @param {number} index */
  function select(index) {
    isChosen = true;
    show(index);
    log.toggleSheet(true);
    const url = new URL(location.href);
    url.searchParams.set("step", String(store.id(index)));
    history.replaceState(null, "", url);
  }

  /** @param {number} index */
  function show(index) {
    log.select(index);
    render();
  }

  const header = new HeaderView(store, clock);
  const pool = new PoolView(store);
  const verdict = new VerdictView(store, clock, select);
  const log = new LogView(store, clock, askCancelStep);
  const selection = { select, selected: () => log.index };
  const rail = new RailView(store, clock, selection);
  const steps = new StepsView(store, clock, { ...selection, cancel: askCancelStep });
  const forecast = new Forecast(runId, render);
  const dialog = store.canCancel ? new CancelDialog(store, forecast, cancelRun) : null;
  const stepDialog = store.canCancel ? new CancelStepDialog(store, forecast, cancelStep) : null;
  const connection = new ConnectionView({
    sequence: () => store.sequence,
    serverTime: () => clock.now(),
    retry: () => socket.retryNow(),
    subject: "steps",
  });
  const socket = new LiveSocket({
    path: () => `ws/runs/${runId}/?after=${store.sequence}`,
    onFrame,
    onConnection: (state) => {
      isLost = state.kind !== "open";
      connection.show(state);
      render();
    },
    catchUp,
  });

  // ---- what comes

  /** @param {any} frame @returns {number | null} */
  function onFrame(frame) {
    if (frame.now) clock.sync(frame.now);
    if (frame.type === "resync") {
      startAgain();
      return null;
    }
    if (frame.type === "beat") {
      store.setWaiting(frame.waiting);
      render();
      connection.caughtUp();
      return null;
    }
    return take(frame) ? store.sequence : null;
  }

  /** @param {import("../lib/store.js").Changes} changes */
  function take(changes) {
    if (store.apply(changes) === "gap") {
      catchUp();
      return false;
    }
    changed();
    return true;
  }

  function changed() {
    render();
    tell();
    connection.caughtUp();
    if (store.isFinal) {
      socket.end();
      connection.show({ kind: "ended" });
    }
  }

  function tell() {
    const now = store.summary().counts;
    const news = newsBetween(counts, now);
    if (news) announce(`Steps: ${news}`);
    counts = { ...now };
    if (store.runShown === runStatus) return;
    runStatus = store.runShown;
    announce(`Run ${lower(runStatus)}`);
  }

  /** Ask over HTTP for what was missed.
   * @returns {Promise<number | null>} A status that makes further attempts useless. */
  async function catchUp() {
    try {
      const changes = await getJson(`api/runs/${runId}/changes?after=${store.sequence}`);
      if (changes.resync) {
        await startAgain();
      } else {
        clock.sync(changes.now);
        // What came over the socket meanwhile makes this answer old, never wrong.
        if (store.apply(changes) === "applied") changed();
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (REFUSALS.has(error.status)) return error.status;
    }
    return null;
  }

  async function startAgain() {
    try {
      const snapshot = await getJson(`api/runs/${runId}`);
      clock.sync(snapshot.now);
      store.reset(snapshot);
      rail.reset();
      changed();
      if (!store.isFinal) socket.restart();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      socket.restart();
    }
  }

  // ---- what people do

  /** A step beside others is cancelled at once; others depend on a critical one, so that asks first.
   * @param {number} id */
  function askCancelStep(id) {
    const isCritical = store.get(store.placeOf(id), "lane") === "critical";
    if (isCritical && stepDialog) stepDialog.ask(id);
    else cancelStep(id, "");
  }

  /** @param {number} id @param {string} note */
  async function cancelStep(id, note) {
    const index = store.placeOf(id);
    // The second click of a double one comes before the button is gone.
    if (!store.isCancellable(index)) return;
    const name = store.get(index, "name");
    store.askCancel(id);
    render();
    announce(`Cancelling ${name}`);
    try {
      const answer = await postJson(`api/step-runs/${id}/cancel`, { note }, giveUp());
      if (answer.status === "already_final") toast(`“${name}” had already ended.`);
      if (isLost || answer.status === "already_final") await catchUp();
    } catch (error) {
      store.takeBack(id);
      render();
      toast(refusal(`“${name}”`, error), "error");
    }
  }

  /** @param {"stop" | "drain"} mode @param {string} note */
  async function cancelRun(mode, note) {
    store.askCancelRun(mode);
    render();
    announce("Cancelling the run");
    try {
      const answer = await postJson(`api/runs/${runId}/cancel`, { mode, note }, giveUp());
      if (answer.status === "already_final") toast("The run had already ended.");
      if (isLost || answer.status !== "cancelling") await catchUp();
    } catch (error) {
      store.askCancelRun("");
      render();
      toast(refusal("the run", error), "error");
    }
  }

  // ---- which output to show while nobody chose

  function chooseByItself() {
    if (isChosen || (log.index === -1 && chooseFromAddress())) return;
    const isOver = log.index === -1 || FINAL_STEP.has(store.get(log.index, "status"));
    if (!isOver) {
      endedAt = 0;
      return;
    }
    const now = performance.now();
    endedAt ||= now;
    const rest = log.index === -1 ? 0 : endedAt + LINGER_MS - now;
    if (rest > 0) {
      // No tick comes once the run is over.
      lingering ||= setTimeout(() => {
        lingering = 0;
        render();
      }, rest);
      return;
    }
    const { running, firstMiss, criticalNow } = store.summary();
    const isCriticalRunning = running.includes(criticalNow);
    const next = isCriticalRunning ? criticalNow : (running[0] ?? firstMiss);
    if (next === undefined || next === -1 || next === log.index) return;
    endedAt = 0;
    log.select(next);
  }

  function chooseFromAddress() {
    const id = Number(new URLSearchParams(location.search).get("step"));
    const index = store.placeOf(id);
    if (index === -1) return false;
    isChosen = true;
    log.select(index);
    return true;
  }

  ticker(
    () => {
      chooseByItself();
      for (const view of [header, rail, steps, log]) view.tick();
    },
    // What is not known to be still so must not look as if it were.
    () => !store.isFinal && !isLost,
  );
  document.addEventListener("visibilitychange", render);
  render();
  if (store.isFinal) connection.show({ kind: "ended" });
  else {
    connection.show({ kind: "connecting" });
    socket.connect();
  }
}

async function load() {
  document.documentElement.dataset.live = "connecting";
  for (;;) {
    try {
      const snapshot = await getJson(`api/runs/${runId}`);
      clock.sync(snapshot.now);
      start(new RunStore(snapshot));
      return;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (REFUSALS.has(error.status)) {
        document.documentElement.dataset.live = "refused";
        toast(error.message, "error");
        return;
      }
      document.documentElement.dataset.live = "lost";
      await new Promise((resolve) => setTimeout(resolve, SNAPSHOT_RETRY_MS));
    }
  }
}

document.getElementById("copy-link")?.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    toast("The link was copied.");
  } catch {
    toast(`This browser does not let pages copy: ${location.href}`);
  }
});

await load();
