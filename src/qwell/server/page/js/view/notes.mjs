// What stands under a reply that did not simply end: why, and what can be done.

import { el, textButton } from "./dom.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {{goOn: () => void, again: () => void, enterKey: () => void, canGoOn: boolean}} Means */

/** @param {Turn} turn @param {string} status @param {Means} means @returns {HTMLElement[]} */
export function notesFor(turn, status, means) {
  const notes = [];
  if (turn.malformed) notes.push(note("The model began a tool call that is none; it is shown as the text it is."));
  if (loops(turn)) notes.push(note("The end of this reply repeats itself: the server noticed a loop."));
  if (turn.fault && (status === "failed" || status === "interrupted")) notes.push(faultNote(turn, means));
  else if (status === "interrupted") notes.push(note("Interrupted. What had come was kept.", ...ways(turn, means)));
  else if (status === "stopped") notes.push(note(turn.content ? "Stopped." : "Stopped before the first word.", ...ways(turn, means)));
  else if (status === "elsewhere") notes.push(note("Being written in another tab."));
  else if (turn.finish === "length") notes.push(note("The reply reached its limit of tokens.", ...ways(turn, means)));
  else if (turn.finish === "deadline") notes.push(note("The deadline passed.", ...ways(turn, means)));
  return notes;
}

/** @param {Turn} turn */
function loops(turn) {
  const ends = /** @type {any} */ (turn.truth)?.choices;
  return Array.isArray(ends) && ends.some((one) => one?.detected_loop === true);
}

/** @param {Turn} turn @param {Means} means */
function ways(turn, means) {
  const canGoOn = means.canGoOn && turn.calls.length === 0 && turn.content !== "";
  const again = textButton("Ask again", isEmpty(turn) ? means.goOn : means.again);
  return canGoOn ? [textButton("Go on", means.goOn, { class: "button primary" }), again] : [again];
}

/** Of a reply without a word nothing is lost: it is written in its place, not beside it. @param {Turn} turn */
function isEmpty(turn) {
  return turn.content === "" && turn.calls.length === 0;
}

/** @param {string} text @param {HTMLElement[]} buttons */
function note(text, ...buttons) {
  return el("div", { class: "note" }, el("p", { text }), ...buttons);
}

/** @type {Record<number, string>} */
const TITLES = { 0: "No answer from the server", 400: "The server refused this request", 401: "This server needs a key", 403: "Not allowed", 404: "Not found", 408: "Too slow", 413: "Too large", 429: "The server is busy", 500: "A fault in the server", 503: "The server takes nothing now" };

/** @param {Turn} turn @param {Means} means */
function faultNote(turn, means) {
  const fault = /** @type {import("../chat/types.mjs").Fault} */ (turn.fault);
  const facts = [fault.status || null, fault.code, fault.param].filter((one) => one !== null).join(" · ");
  const hasText = turn.content !== "" && turn.calls.length === 0 && means.canGoOn;
  const again = textButton(hasText ? "Go on" : "Try again", hasText || isEmpty(turn) ? means.goOn : means.again, { class: "button primary" });
  const buttons = fault.status === 401 ? [textButton("Enter a key", means.enterKey, { class: "button primary" }), again] : [again];
  if (fault.retryAt) countDown(again, fault.retryAt);
  return el(
    "div",
    { class: "note fault", role: "group", "aria-label": "Fault" },
    el(
      "div",
      { class: "told" },
      el("p", {}, el("strong", { text: TITLES[fault.status] ?? `Status ${fault.status}` }), " ", el("span", { text: `${fault.message}${/[.!?]$/.test(fault.message) ? "" : "."}` })),
      facts ? el("p", { class: "quiet mono", text: facts }) : null,
    ),
    ...buttons,
  );
}

/** The server said when to come again: until then the button counts. @param {HTMLButtonElement} button @param {number} until */
function countDown(button, until) {
  const label = button.textContent;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `${label} in ${left} s` : label;
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
}
