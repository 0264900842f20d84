// Shows the fields of the chosen kind of step and hides those of the others.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const kind = document.getElementById("id_kind");
  if (!kind) return;
  const sections = [...document.querySelectorAll("fieldset[class*='kind-']")];

  const show = () => {
    const own = sections.filter((section) => section.classList.contains(`kind-${kind.value}`));
    // A kind that a project added has no fields of its own: its target is JSON.
    const other = own.length || ["", "python"].includes(kind.value) ? "" : "kind-other";
    for (const section of sections) {
      section.hidden = !own.includes(section) && !section.classList.contains(other || "none");
    }
  };

  kind.addEventListener("change", show);
  show();
});
