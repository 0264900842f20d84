// @ts-check
import { byId, icon, make } from "../lib/dom.js";

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
