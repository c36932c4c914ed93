// Elements are made here and nowhere from text: no innerHTML on this page (its CSP forbids it too).

import { ICONS } from "./icons.mjs";

/**
 * @typedef {Record<string, unknown> & {class?: string | null, text?: string, on?: Record<string, (event: any) => void>}} Props
 * text and class; `on`: listeners; true or false set or leave out an attribute; the rest are attributes.
 */

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Props} [props] @param {(Node | string | null | undefined | false)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "text") made.textContent = String(value);
    else if (name === "on") for (const [event, call] of Object.entries(/** @type {object} */ (value))) made.addEventListener(event, call);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false).map((child) => /** @type {Node | string} */ (child)));
  return made;
}

/** @param {string} name @returns {SVGSVGElement} */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button with an icon and a name for those who do not see it.
 * @param {string} name @param {string} label @param {() => void} click @param {Props} [more]
 */
export function iconButton(name, label, click, more = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click }, ...more }, icon(name));
}

/** @param {string} label @param {() => void} click @param {Props} [more] */
export function textButton(label, click, more = {}) {
  return el("button", { type: "button", class: "button", text: label, on: { click }, ...more });
}

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** Said by screen readers when they have time. @param {string} text */
export function announce(text) {
  const place = byId("announcer");
  place.textContent = "";
  setTimeout(() => (place.textContent = text), 50);
}

/** @param {string} text @returns {Promise<boolean>} */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOldWay(text); // plain http from another machine has no clipboard API
  }
}

/** @param {string} text */
function copyOldWay(text) {
  const before = /** @type {HTMLElement | null} */ (document.activeElement);
  const area = el("textarea", { class: "sr-only", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  before?.focus();
  return isDone;
}

/** A copy button that says when it has. @param {string} label @param {() => string} text @param {Props} [more] */
export function copyButton(label, text, more = {}) {
  const button = iconButton("copy", label, async () => {
    const isDone = await copyText(text());
    button.replaceChildren(icon(isDone ? "check" : "close"));
    announce(isDone ? "Copied" : "This browser does not let the page copy");
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  }, more);
  return button;
}

/** Numbers as people read them. @param {number} value @param {number} [digits] */
export function shown(value, digits = 0) {
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });
}

/** Makes a text area as high as its text, up to its CSS maximum. @param {HTMLTextAreaElement} area */
export function fitHeight(area) {
  area.style.height = "auto";
  if (!area.offsetHeight) return;
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}
