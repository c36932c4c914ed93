// Shortcuts. Single letters act on a focused message alone, so they never surprise who types.

import { showShortcuts } from "./dialogs.mjs";

/** @typedef {import("../app/app.mjs").App} App */
/** @typedef {{app: App, thread: import("./thread.mjs").Thread, composer: import("./composer.mjs").Composer, frame: import("./frame.mjs").Frame, go: (id: string | null) => void}} Parts */

/** @param {Parts} parts */
export function setUpKeys(parts) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const act = chord(event, parts) ?? (isTyping(event) ? typing(event, parts) : single(event, parts));
    if (act?.() !== undefined) event.preventDefault();
  });
}

/** What is to be done: it gives something if it was done. @typedef {(() => unknown) | null} Act */

/** @param {KeyboardEvent} event @param {Parts} parts @returns {Act} */
function chord(event, { app, thread, composer, frame, go }) {
  const { key } = event;
  if (key === "Escape") return () => (frame.closeDrawers() || (app.isRunning && stopped(app, composer)) ? true : undefined);
  if (event.altKey && !event.ctrlKey && key === "ArrowUp") return () => thread.move(-1) ?? true;
  if (event.altKey && !event.ctrlKey && key === "ArrowDown") return () => thread.move(1) ?? true;
  if (!(event.ctrlKey || event.metaKey) || event.altKey) return null;
  if (event.shiftKey && key.toLowerCase() === "o") return () => go(null) ?? true;
  if (!event.shiftKey && key === "b") return () => frame.toggle("list") ?? true;
  if (key === ".") return () => frame.toggle("panel") ?? true;
  return null;
}

/** @param {App} app @param {import("./composer.mjs").Composer} composer */
function stopped(app, composer) {
  app.stop();
  composer.focus();
  return true;
}

/** @param {KeyboardEvent} event @param {Parts} parts @returns {Act} */
function typing(event, { app, composer, thread }) {
  if (event.key !== "ArrowUp" || event.target !== composer.area || composer.area.value) return null;
  const last = app.path.findLast((turn) => turn.role === "user");
  return last ? () => thread.editTurn(last) ?? true : null;
}

/** @param {KeyboardEvent} event @param {Parts} parts @returns {Act} */
function single(event, { thread, composer }) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  if (event.key === "/") return () => composer.focus() ?? true;
  if (event.key === "?") return () => showShortcuts() ?? true;
  const message = thread.focused();
  const name = { e: "edit", r: "again", c: "copy", "[": "previous", "]": "next" }[event.key.toLowerCase()];
  const button = name && message?.act(name);
  return button ? () => button.click() ?? true : null;
}

/** @param {KeyboardEvent} event */
function isTyping(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  return Boolean(target.closest?.("input:not([type=checkbox]), textarea, select"));
}
