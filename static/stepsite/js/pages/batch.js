// @ts-check
// The page of a batch: the plan follows what is chosen. Starting is a plain form.
import { byId, make, one, setAttribute, setHidden, setText } from "../lib/dom.js";
import { limit } from "../lib/format.js";
import { ApiError, postJson } from "../lib/http.js";

/**
 * @typedef {{name: string, kind: string, because: string, timeout_seconds: number,
 *   attempts: number, protected: boolean}} Planned
 * @typedef {{plan_hash: string, plan: {critical: Planned[], pool: Planned[]},
 *   warnings: string[]}} PlanAnswer
 */

const PAUSE_MS = 250;
/** Steps of each lane that are listed, here and by the server. */
const LISTED = 500;

const form = /** @type {HTMLFormElement} */ (byId("trigger"));
const context = /** @type {HTMLTextAreaElement} */ (byId("context"));
const boxes = /** @type {HTMLInputElement[]} */ ([
  ...form.querySelectorAll('input[name="steps"]:not([disabled])'),
]);
let timer = 0;
let abort = new AbortController();

// ---- asking

function refreshSoon() {
  setState("stale", "updating…");
  clearTimeout(timer);
  timer = setTimeout(refresh, PAUSE_MS);
}

async function refresh() {
  clearTimeout(timer);
  abort.abort();
  abort = new AbortController();
  clearErrors();
  showList("plan-problems", "plan-problem-list", []);
  const isFit = checkFields();
  const order = readForm();
  if (!order || !isFit) {
    setState("refused", "");
    return;
  }
  setState("stale", "updating…");
  try {
    showPlan(await postJson("api/plan", order.body, abort.signal), order.options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    showErrors(error);
  }
}

/** Shows what the browser itself can tell to be wrong; the server would refuse the same. */
function checkFields() {
  const isAnyChosen = boxes.length === 0 || boxes.some((box) => box.checked);
  if (!isAnyChosen) {
    showList("plan-problems", "plan-problem-list", ["Choose at least one step."]);
  }
  const numbers = [...form.querySelectorAll('input[type="number"]')];
  const wrong = /** @type {HTMLInputElement[]} */ (numbers).filter(
    (field) => !field.validity.valid,
  );
  for (const field of wrong) showError(field.name, field.validationMessage);
  return isAnyChosen && wrong.length === 0;
}

/** The order as JSON text, and its options; null if the context cannot be sent. */
function readForm() {
  if (readContext() === null) return null;
  const data = new FormData(form);
  const timeout = String(data.get("default_timeout_seconds") ?? "").trim();
  const names = boxes.filter((box) => box.checked).map((box) => box.value);
  const options = {
    pool_width: numberOr(data.get("pool_width")),
    failure_policy: data.get("failure_policy"),
    pool_start: data.get("pool_start"),
    default_timeout_seconds: timeout === "" ? null : numberOr(timeout),
  };
  const order = {
    batch: form.dataset.batch,
    // None at all stands for every entry, as it does for the form itself.
    ...(names.length === boxes.length ? {} : { steps: names }),
    options,
  };
  // The context goes as it was typed: read and written here, 1.0 would become 1, and large numbers
  // would lose digits. The form sends the same text, and both must give the same plan.
  const text = context.value.trim() || "{}";
  const body = `${JSON.stringify(order).slice(0, -1)},"context":${text}}`;
  return { body, options };
}

/** A number, or the text itself for the server to refuse in words.
 * @param {FormDataEntryValue | null} value */
function numberOr(value) {
  const number = Number(value);
  return value === "" || Number.isNaN(number) ? String(value) : number;
}

/** @returns {object | null} */
function readContext() {
  try {
    const value = JSON.parse(context.value.trim() || "{}");
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
    showError("context", "The context must be an object: names with values.");
  } catch (error) {
    showError("context", `This is not JSON: ${/** @type {Error} */ (error).message}.`);
  }
  return null;
}

// ---- showing

/** @param {"current" | "stale" | "refused"} state @param {string} text */
function setState(state, text) {
  byId("plan").dataset.state = state;
  setText(byId("plan-state"), text);
  /** @type {HTMLButtonElement} */ (byId("start")).disabled = state !== "current";
}

/** @param {PlanAnswer} answer @param {Record<string, unknown>} options */
function showPlan(answer, options) {
  const { critical, pool } = answer.plan;
  showLane("critical", critical);
  showLane("pool", pool);
  setText(byId("plan-width"), String(options.pool_width));
  setText(byId("plan-start"), options.pool_start === "beside_critical" ? "beside" : "after");
  setHidden(byId("plan-problems"), true);
  showList("plan-warnings", "plan-warning-list", answer.warnings ?? []);
  setText(byId("plan-hash-short"), answer.plan_hash.slice(0, 10));
  input("plan-hash").value = answer.plan_hash;
  input("plan-seen").value = JSON.stringify([
    ...critical.map((step) => seen(step, "critical")),
    ...pool.map((step) => seen(step, "pool")),
  ]);
  setState("current", "this is what will run");
}

/** @param {Planned} step @param {string} lane */
const seen = (step, lane) => [step.name, lane, step.timeout_seconds, step.because];

/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));

/** @param {"critical" | "pool"} lane @param {Planned[]} steps */
function showLane(lane, steps) {
  const section = one(byId("plan-lanes"), `[data-lane="${lane}"]`);
  setText(one(section, "[data-number]"), steps.length.toLocaleString("en"));
  setHidden(one(section, ".none"), steps.length > 0);
  const template = /** @type {HTMLTemplateElement} */ (byId("planned-step"));
  const known = new Set(
    [...section.querySelectorAll(".planned-step")].map((item) => item.getAttribute("data-name")),
  );
  const isFirst = known.size === 0;
  const unlisted = steps.length - LISTED;
  setHidden(one(section, ".unlisted"), unlisted <= 0);
  setText(one(section, ".unlisted"), `and ${unlisted.toLocaleString("en")} more`);
  const items = steps.slice(0, LISTED).map((step) => {
    const item = /** @type {HTMLElement} */ (one(template.content, "li").cloneNode(true));
    item.dataset.name = step.name;
    item.classList.toggle("arrived", !isFirst && !known.has(step.name));
    setText(one(item, ".planned-name"), step.name);
    setText(one(item, ".planned-facts"), facts(step));
    setText(one(item, ".planned-because"), step.because);
    return item;
  });
  byId(`plan-${lane}`).replaceChildren(...items);
}

/** @param {Planned} step */
function facts(step) {
  const parts = [step.kind, limit(step.timeout_seconds)];
  if (step.attempts > 1) parts.unshift(`${step.attempts} attempts`);
  if (step.protected) parts.unshift("protected");
  return parts.join(" · ");
}

/** @param {ApiError} error */
function showErrors(error) {
  const errors = error.body?.errors ?? [{ field: "", message: error.message }];
  const rest = errors.filter(
    (/** @type {{field: string, message: string}} */ { field, message }) =>
      !showError(field.replace(/^options\./, ""), withoutName(message, field)),
  );
  const texts = rest.map((/** @type {{message: string}} */ { message }) => message);
  showList("plan-problems", "plan-problem-list", texts);
  setState("refused", "");
}

/** `Must be a number.` for `options.pool_width must be a number.`, to stand beside that field.
 * @param {string} message @param {string} field */
function withoutName(message, field) {
  if (!field || !message.startsWith(`${field} `)) return message;
  const rest = message.slice(field.length + 1);
  return rest[0].toUpperCase() + rest.slice(1);
}

/** Shows a problem beside its field; false if the page has no such field.
 * @param {string} field @param {string} message */
function showError(field, message) {
  const place =
    field === "context"
      ? byId("context-error")
      : document.querySelector(`[data-error="${CSS.escape(field)}"]`);
  const control = form.elements.namedItem(field);
  if (!place || !(control instanceof HTMLElement)) return false;
  setText(place, message);
  setAttribute(control, "aria-invalid", "true");
  return true;
}

function clearErrors() {
  for (const place of form.querySelectorAll(".errors")) setText(place, "");
  for (const control of form.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
  }
}

/** @param {string} boxId @param {string} listId @param {string[]} texts */
function showList(boxId, listId, texts) {
  setHidden(byId(boxId), texts.length === 0);
  byId(listId).replaceChildren(...texts.map((text) => make("li", {}, text)));
}

// ---- choosing

function countChosen() {
  const chosen = boxes.filter((box) => box.checked).length;
  setText(byId("chosen-count"), chosen.toLocaleString("en"));
}

/** @param {boolean} isChosen */
function chooseShown(isChosen) {
  for (const box of boxes) {
    if (!box.closest("li")?.hidden) box.checked = isChosen;
  }
  countChosen();
  refreshSoon();
}

byId("choose-all").addEventListener("click", () => chooseShown(true));
byId("choose-none").addEventListener("click", () => chooseShown(false));
byId("format-context").addEventListener("click", () => {
  const value = readContext();
  if (value === null) return;
  context.value = JSON.stringify(value, null, 2);
  clearErrors();
});
document.getElementById("entry-filter")?.addEventListener("input", (event) => {
  event.stopPropagation();
  const text = /** @type {HTMLInputElement} */ (event.target).value.trim().toLowerCase();
  form.querySelector("details.many")?.setAttribute("open", "");
  for (const box of form.querySelectorAll('input[name="steps"]')) {
    const item = box.closest("li");
    const name = /** @type {HTMLInputElement} */ (box).value.toLowerCase();
    if (item) item.hidden = !name.includes(text);
  }
});
/** What is typed is followed while it is typed. Once more when its field is left, the plan would be
 * stale, and the button off, in the very moment in which somebody clicks on it.
 * @param {Event} event */
const isTyped = ({ target }) =>
  target instanceof Element && target.matches("textarea, .field .input");

form.addEventListener("change", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.name === "steps") countChosen();
  if (!isTyped(event)) refreshSoon();
});
form.addEventListener("input", (event) => {
  if (isTyped(event)) refreshSoon();
});
form.addEventListener("submit", (event) => {
  const submitter = /** @type {SubmitEvent} */ (event).submitter;
  if (submitter?.getAttribute("value") !== "preview") return;
  event.preventDefault();
  refresh();
});
addEventListener("pageshow", () => {
  // Browsers restore what was typed, but not the plan that belongs to it.
  countChosen();
  if (byId("plan").dataset.state === "current") refreshSoon();
});
