// @ts-check
import { byId, icon, make } from "../lib/dom.js";
import { ApiError } from "../lib/http.js";

const SHOWN_MS = 8000;

/** A short message in the corner; errors stay until they are dismissed.
 * @param {string} text @param {"error" | "info"} [kind] */
export function toast(text, kind = "info") {
  const close = make("button", { type: "button", class: "icon-button", "aria-label": "Dismiss" });
  close.append(icon("close", 14));
  const box = make("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" });
  box.append(make("p", {}, text), close);
  close.addEventListener("click", () => box.remove());
  byId("toasts").append(box);
  if (kind === "info") setTimeout(() => box.remove(), SHOWN_MS);
}

/** Why a cancel came to nothing, or that nobody knows. Raises what no server said.
 * @param {string} what @param {unknown} error */
export function refusal(what, error) {
  if (!(error instanceof ApiError)) throw error;
  if (!error.isUncertain) {
    return `${what[0].toUpperCase()}${what.slice(1)} was not cancelled. ${error.message}`;
  }
  return `It is not known whether ${what} was cancelled. ${error.message} The page will tell.`;
}
