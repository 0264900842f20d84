// Says what the operand of the chosen condition is, and hides the value where it has no meaning.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const condition = document.getElementById("id_condition");
  const operand = document.getElementById("id_operand");
  if (!condition || !operand) return;
  const operands = JSON.parse(condition.dataset.operands);
  const label = document.querySelector('label[for="id_operand"]');
  const help = document.querySelector(".field-operand .help > div");
  const value = document.querySelector(".form-row.field-value");
  const unchosen = { label: label.textContent, help: [...help.childNodes] };

  const show = () => {
    const [name, text] = operands[condition.value] ?? [];
    label.textContent = name ? `${name}:` : unchosen.label;
    help.replaceChildren(...(text ? [text] : unchosen.help));
    const isWrong = value.querySelector(".errorlist") !== null;
    value.hidden = condition.value !== "context_equals" && !isWrong;
  };

  condition.addEventListener("change", show);
  show();
});
