// The two dialogs: the key of the server, and the list of shortcuts.

import { apiKey, setApiKey } from "../net/api.mjs";
import { byId, el } from "./dom.mjs";

export const SHORTCUTS = [
  ["Enter", "Send"],
  ["Shift + Enter", "New line"],
  ["Esc", "Stop the reply; close what is open"],
  ["/", "Go to the message box"],
  ["↑ in an empty box", "Edit your last message"],
  ["Ctrl + Shift + O", "New conversation"],
  ["Ctrl + B", "Show or hide the conversations"],
  ["Ctrl + .", "Show or hide the settings"],
  ["Alt + ↑, Alt + ↓", "Go through the messages"],
  ["on a message: E, R, C", "Edit, ask again, copy"],
  ["on a message: [, ]", "Previous and next version"],
  ["Ctrl + Enter", "Send an edit or a result"],
  ["?", "This list"],
];

/** @param {() => void} onKey called with a new key in place */
export function setUpDialogs(onKey) {
  const rows = SHORTCUTS.map(([keys, what]) => el("div", {}, el("dt", {}, el("kbd", { text: keys })), el("dd", { text: what })));
  byId("shortcut-list").replaceChildren(...rows);
  for (const close of document.querySelectorAll("dialog [data-close]")) {
    close.addEventListener("click", () => close.closest("dialog")?.close());
  }
  const field = /** @type {HTMLInputElement} */ (byId("key"));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(field.value.trim());
    field.value = "";
    dialog("key-dialog").close();
    onKey();
  });
}

/** @param {string} id */
function dialog(id) {
  return /** @type {HTMLDialogElement} */ (byId(id));
}

/** @param {string} [why] */
export function askForKey(why = "") {
  byId("key-why").textContent = why || (apiKey() ? "A key is in use. Give another, or leave the field empty to forget it." : "It is kept until this tab is closed, and sent to this server alone.");
  if (!dialog("key-dialog").open) dialog("key-dialog").showModal();
}

export function showShortcuts() {
  if (!dialog("shortcuts").open) dialog("shortcuts").showModal();
}
