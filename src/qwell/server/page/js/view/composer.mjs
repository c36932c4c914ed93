// Where a message is typed and sent, and where a reply is stopped.

import { byId, el, fitHeight, icon, shown } from "./dom.mjs";

/** @typedef {import("../app/app.mjs").App} App */

export class Composer {
  /** @param {App} app @param {() => void} openPanel */
  constructor(app, openPanel) {
    this.app = app;
    this.openPanel = openPanel;
    this.area = /** @type {HTMLTextAreaElement} */ (byId("message"));
    this.button = /** @type {HTMLButtonElement} */ (byId("send"));
    this.chips = byId("chips");
    /** What was typed and not sent, by conversation. @type {Map<string, string>} */
    this.drafts = new Map();
    this.open = "";
    this.area.addEventListener("input", () => this.#onInput());
    this.area.addEventListener("keydown", (event) => this.#onKey(event));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#act();
    });
    for (const name of ["turns", "run", "list", "model"]) app.addEventListener(name, () => this.draw());
    for (const name of ["settings", "settings-changed"]) app.addEventListener(name, () => this.#drawChips());
  }

  draw() {
    const { app } = this;
    if (this.open !== app.open.id) {
      this.drafts.set(this.open, this.area.value);
      this.open = app.open.id;
      this.put(this.drafts.get(app.open.id) ?? "");
    }
    const running = app.isRunning;
    const label = running ? "Stop" : "Send";
    if (this.button.getAttribute("aria-label") !== label) {
      this.button.setAttribute("aria-label", label);
      this.button.title = running ? "Stop (Esc)" : "Send (Enter)";
      this.button.replaceChildren(icon(running ? "stop" : "send"));
      this.button.classList.toggle("stops", running);
    }
    this.button.disabled = !running && !this.area.value.trim();
    this.#drawContext();
  }

  /** How much of the context the conversation fills, as the server last counted it. */
  #drawContext() {
    const { app } = this;
    const usage = app.path.findLast((turn) => turn.usage)?.usage;
    const filled = usage && app.model ? `${shown(usage.prompt + usage.reply)} of ${shown(app.model.context)} tokens of context used. ` : "";
    byId("fine").textContent = `${filled}Models make mistakes: check what matters.`;
  }

  /** @param {string} text */
  put(text) {
    this.area.value = text;
    this.#onInput();
  }

  focus() {
    this.area.focus();
  }

  #onInput() {
    fitHeight(this.area);
    if (!this.app.isRunning) this.button.disabled = !this.area.value.trim();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    // An input method uses Enter to choose a word; a phone's keyboard has no Shift+Enter.
    const isTouch = matchMedia("(hover: none) and (pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || isTouch) return;
    event.preventDefault();
    if (!this.app.isRunning) this.#act();
  }

  #act() {
    if (this.app.isRunning) {
      this.app.stop();
      return;
    }
    if (this.app.send(this.area.value)) this.put("");
    this.focus();
  }

  #drawChips() {
    const { settings } = this.app.open;
    const names = [
      settings.system.trim() && "System prompt",
      settings.tools.trim() && settings.toolChoice !== "none" && "Tools",
      settings.format !== "text" && { json_object: "JSON", json_schema: "JSON Schema", regex: "Regex", grammar: "Grammar", choice: "Choice" }[settings.format],
      Object.values(settings.fields).some((text) => text.trim()) && "Own settings",
    ].filter((name) => typeof name === "string" && name !== "");
    this.chips.replaceChildren(...names.map((text) => el("button", { type: "button", class: "chip", text: String(text), title: "Open the settings", on: { click: this.openPanel } })));
  }
}
