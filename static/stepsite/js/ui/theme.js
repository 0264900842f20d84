// Runs before the first paint, so that a chosen theme never flashes. Key and attribute are those of
// the Django admin: one switch for both.
"use strict";

(() => {
  const root = document.documentElement;
  root.dataset.scripting = "";
  let theme = "auto";
  try {
    theme = localStorage.getItem("theme") ?? "auto";
  } catch {
    // Storage may be forbidden; the system's theme is a good answer then.
  }
  root.dataset.theme = theme === "light" || theme === "dark" ? theme : "auto";
})();
