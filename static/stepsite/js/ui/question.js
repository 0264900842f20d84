// @ts-check
// Dialogs that say what something will do before they do it.
import { one } from "../lib/dom.js";

/** A second click of a double one must not meet what the dialog lay on. */
const SETTLING_MS = 500;

/** A dialog with a list of consequences, a form, and a button that leaves everything as it is. */
export class Question {
  /** @param {HTMLDialogElement} dialog
   * @param {{items: () => HTMLElement[], answer: (form: FormData) => void,
   *   opened?: () => void, closed?: () => void}} ports
   * `items` are the consequences as they stand; `answer` is called at most once for each opening. */
  constructor(dialog, ports) {
    this.dialog = dialog;
    this.ports = ports;
    this.form = /** @type {HTMLFormElement} */ (one(dialog, "form"));
    this.list = one(dialog, ".consequences");
    one(dialog, "[data-keep]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => ports.closed?.());
    this.form.addEventListener("change", () => this.render());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!dialog.open) return;
      const data = this.data;
      dialog.close();
      settle();
      ports.answer(data);
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  get data() {
    return new FormData(this.form);
  }

  open() {
    if (this.isOpen) return;
    this.dialog.showModal();
    this.ports.opened?.();
    this.render();
    one(this.dialog, "[data-keep]").focus();
  }

  close() {
    if (this.isOpen) this.dialog.close();
  }

  /** Things go on while the dialog is open, so what it says does too. */
  render() {
    if (!this.isOpen) return;
    const items = this.ports.items();
    // Nobody should lose their place in a list that says the same.
    const isSame = this.list.textContent === items.map((each) => each.textContent).join("");
    if (!isSame) this.list.replaceChildren(...items);
  }
}

function settle() {
  document.documentElement.dataset.settling = "";
  setTimeout(() => delete document.documentElement.dataset.settling, SETTLING_MS);
}

/** Lets a link with the role of a button open a dialog instead of its page.
 * @param {HTMLElement} link @param {() => boolean} open False: the link is followed after all. */
export function opens(link, open) {
  link.addEventListener("click", (event) => {
    if (open()) event.preventDefault();
  });
  link.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    link.click();
  });
}
