// @ts-check
// What every page does: the theme switch, relative times, the search key, filters that submit.
import { setText } from "../lib/dom.js";
import { ago } from "../lib/format.js";

const THEMES = ["auto", "light", "dark"];
/** @type {Record<string, string>} */
const THEME_WORDS = { auto: "automatic", light: "light", dark: "dark" };

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.setAttribute("aria-label", `Colours: ${THEME_WORDS[theme]}`);
    button.setAttribute("title", `Colours: ${THEME_WORDS[theme]}`);
    for (const face of button.querySelectorAll("[data-theme-icon]")) {
      face.toggleAttribute("hidden", face.getAttribute("data-theme-icon") !== theme);
    }
  }
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  showTheme();
}

// The server's time when it made the page; this machine's clock may be wrong.
const madeAt = Date.parse(
  document.querySelector('meta[name="now"]')?.getAttribute("content") ?? "",
);
const loadedAt = performance.now();

function showAges() {
  const now = madeAt + performance.now() - loadedAt;
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const moment = Date.parse(time.getAttribute("datetime") ?? "");
    const seconds = (now - moment) / 1000;
    if (!Number.isNaN(seconds)) setText(time, ago(seconds));
  }
}

/** @param {KeyboardEvent} event */
function findKey(event) {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  if (target instanceof Element && target.closest("input, textarea, select")) return;
  const field = document.querySelector("[data-find]");
  if (!(field instanceof HTMLElement) || field.offsetParent === null) return;
  event.preventDefault();
  field.focus();
}

/** @param {Event} event */
function closeMenus(event) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    const isEscape = event instanceof KeyboardEvent && event.key === "Escape";
    const isOutside = event.type === "click" && !menu.contains(/** @type {Node} */ (event.target));
    if (!isEscape && !isOutside) continue;
    menu.removeAttribute("open");
    if (isEscape) menu.querySelector("summary")?.focus();
  }
}

showTheme();
setInterval(showAges, 15_000);
document.addEventListener("keydown", findKey);
document.addEventListener("keydown", closeMenus);
document.addEventListener("click", closeMenus);
for (const button of document.querySelectorAll("[data-theme-switch]")) {
  button.addEventListener("click", nextTheme);
}
for (const form of document.querySelectorAll("form[data-submit-on-change]")) {
  form.addEventListener("change", (event) => {
    if (event.target instanceof HTMLSelectElement && form instanceof HTMLFormElement) {
      form.requestSubmit();
    }
  });
}
