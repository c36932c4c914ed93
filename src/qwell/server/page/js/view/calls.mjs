// Tool calls of a reply, results of tools, and the form in which a person gives a result.

import { el, fitHeight, icon } from "./dom.mjs";
import { jsonBlock, typedText } from "./prose.mjs";

/** @typedef {import("../chat/types.mjs").ToolCall} ToolCall */

/** @param {ToolCall} call */
export function drawCall(call) {
  const isEmpty = !call.arguments || call.arguments.trim() === "{}";
  const body = isEmpty ? el("p", { class: "quiet", text: "without arguments" }) : (jsonBlock(call.arguments) ?? el("pre", { text: call.arguments }));
  return el("section", { class: "call", "aria-label": `Call of ${call.name}` }, el("header", {}, icon("tool"), el("strong", { text: call.name }), el("span", { class: "quiet", text: "tool call" })), body);
}

/** @param {string} name @param {string} content */
export function drawResult(name, content) {
  const body = jsonBlock(content) ?? typedText(content);
  return el("section", { class: "call result", "aria-label": `Result of ${name}` }, el("header", {}, icon("check"), el("strong", { text: name }), el("span", { class: "quiet", text: "result" })), body);
}

/**
 * One field for each call and one button for all.
 * @param {ToolCall[]} calls @param {(results: string[]) => void} give
 */
export function resultForm(calls, give) {
  const areas = calls.map((call) => {
    const area = el("textarea", { rows: "2", class: "mono", placeholder: "What the tool gives back: text or JSON", spellcheck: "false", on: { input: () => fitHeight(area) } });
    area.setAttribute("aria-label", `Result of ${call.name}`);
    return area;
  });
  const form = el(
    "form",
    { class: "result-form", on: { submit: (/** @type {Event} */ event) => { event.preventDefault(); give(areas.map((area) => area.value)); } } },
    ...areas.map((area, i) => el("label", {}, el("span", { text: calls.length > 1 ? `${i + 1}. Result of ${calls[i].name}` : `Result of ${calls[i].name}` }), area)),
    el("button", { type: "submit", class: "button primary", text: calls.length > 1 ? "Send results" : "Send result" }),
  );
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return form;
}
