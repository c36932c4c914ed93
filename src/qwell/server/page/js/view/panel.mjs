// The settings of one conversation: every field the server has. What is typed is kept as it is, and
// what cannot be sent is told beside its field.

import { FIELDS, readField, SettingError } from "../chat/fields.mjs";
import { chatBody, readTools } from "../chat/request.mjs";
import { byId, el, fitHeight, textButton } from "./dom.mjs";

/** @typedef {import("../app/app.mjs").App} App */
/** @typedef {import("../chat/fields.mjs").Field} Field */

const EXAMPLE_TOOL = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city now",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const EXAMPLE_SCHEMA = { type: "object", properties: { name: { type: "string" }, age: { type: "integer" } }, required: ["name", "age"], additionalProperties: false };

/** @type {[string, string][]} */
const FORMATS = [["text", "Free text"], ["json_object", "Any JSON object"], ["json_schema", "JSON Schema"], ["regex", "Regular expression"], ["grammar", "Lark grammar"], ["choice", "One of these lines"]];

export class Panel {
  /** @param {App} app @param {() => void} enterKey */
  constructor(app, enterKey) {
    this.app = app;
    this.enterKey = enterKey;
    this.place = byId("settings");
    // Text has a height only once there is a width: when the panel is opened or becomes narrower.
    new ResizeObserver(() => this.#fit()).observe(this.place);
    app.addEventListener("settings", () => this.draw());
    app.addEventListener("model", () => this.draw());
  }

  draw() {
    const { settings } = this.app.open;
    const group = (/** @type {string} */ name) => FIELDS.filter((field) => field.group === name).map((field) => this.#field(field));
    this.place.replaceChildren(
      section("System prompt", this.#system(settings.system)),
      section("Sampling", ...group("sampling")),
      section("Length and end", ...group("ends")),
      section("Tools", ...this.#tools()),
      section("Output format", ...this.#format()),
      section("More", ...group("more")),
      el("div", { class: "panel-end" }, textButton("Reset all", () => this.app.resetSettings()), textButton("API key…", this.enterKey)),
    );
    this.#fit();
  }

  #fit() {
    for (const area of this.place.querySelectorAll("textarea")) fitHeight(area);
  }

  /** @param {string} value */
  #system(value) {
    const fallback = this.app.model?.system;
    const placeholder = fallback ? `The model’s own: ${fallback}` : "None";
    return this.#area("system", "System prompt", value, (text) => this.app.set({ system: text }), { placeholder, rows: "3", hidesLabel: true });
  }

  /** @param {Field} field */
  #field(field) {
    const value = this.app.open.settings.fields[field.name] ?? "";
    const set = (/** @type {string} */ text) => this.#setField(field.name, text);
    const check = (/** @type {string} */ text) => faultOf(() => readField(field, text));
    if (field.kind === "flag") return this.#flag(field.name, field.label, value === "true", (on) => set(on ? "true" : ""));
    if (field.kind === "lines" || field.kind === "json") return this.#area(field.name, field.label, value, set, { help: field.help, check, mono: true, rows: "1" });
    const own = this.app.model?.sampling?.[field.name];
    const isNumber = field.kind !== "ids";
    const input = el("input", { id: `set-${field.name}`, type: "text", inputmode: isNumber ? "decimal" : "text", placeholder: own === undefined || own === null ? "–" : String(own), autocomplete: "off", "aria-describedby": `help-${field.name}` });
    input.value = value;
    const row = el("div", { class: "field" }, el("label", { for: input.id, text: field.label }), input, el("p", { class: "help", id: `help-${field.name}`, text: field.help }));
    if (isNumber) input.addEventListener("keydown", (event) => step(event, input, field, own));
    watch(input, row, set, check);
    return row;
  }

  /** @param {string} name @param {string} text */
  #setField(name, text) {
    const fields = { ...this.app.open.settings.fields, [name]: text };
    if (!text.trim()) delete fields[name];
    this.app.set({ fields });
  }

  /**
   * @param {string} name @param {string} label @param {string} value @param {(text: string) => void} set
   * @param {{placeholder?: string, help?: string, rows?: string, mono?: boolean, hidesLabel?: boolean, check?: (text: string) => string | null}} how
   */
  #area(name, label, value, set, how) {
    const area = el("textarea", { id: `set-${name}`, rows: how.rows ?? "3", placeholder: how.placeholder ?? "", class: how.mono ? "mono" : null, spellcheck: how.mono ? "false" : "true", "aria-describedby": how.help ? `help-${name}` : null });
    area.value = value;
    area.addEventListener("input", () => fitHeight(area));
    const row = el("div", { class: "field wide" }, el("label", { for: area.id, text: label, class: how.hidesLabel ? "sr-only" : null }), area, how.help ? el("p", { class: "help", id: `help-${name}`, text: how.help }) : null);
    watch(area, row, set, how.check ?? (() => null));
    return row;
  }

  /** @param {string} name @param {string} label @param {boolean} value @param {(on: boolean) => void} set */
  #flag(name, label, value, set) {
    const box = el("input", { id: `set-${name}`, type: "checkbox", on: { change: () => set(box.checked) } });
    box.checked = value;
    return el("label", { class: "flag" }, box, el("span", { text: label }));
  }

  /** @param {string} name @param {string} label @param {[string, string][]} options @param {string} value @param {(value: string) => void} set */
  #choice(name, label, options, value, set) {
    const select = el("select", { id: `set-${name}`, on: { change: () => set(select.value) } }, ...options.map(([key, text]) => el("option", { value: key, text })));
    select.value = value;
    return el("div", { class: "field" }, el("label", { for: select.id, text: label }), select);
  }

  #tools() {
    const { settings } = this.app.open;
    const check = (/** @type {string} */ text) => faultOf(() => readTools(text));
    const names = check(settings.tools) === null ? readTools(settings.tools).map((tool) => String(tool.function.name)) : [];
    const choices = /** @type {[string, string][]} */ ([["auto", "The model decides"], ["none", "Never"], ["required", "Always some"], ...names.map((name) => [`=${name}`, `Always ${name}`])]);
    const chosen = choices.some(([key]) => key === settings.toolChoice) ? settings.toolChoice : "auto";
    if (chosen !== settings.toolChoice && check(settings.tools) === null) this.app.set({ toolChoice: chosen });
    const area = this.#area("tools", "Definitions", settings.tools, (text) => this.app.set({ tools: text }), { help: "JSON: one tool or a list, in OpenAI’s shape. You give the results yourself.", check, mono: true, rows: "2" });
    area.querySelector("textarea")?.addEventListener("change", () => this.#redraw("set-tools"));
    return [
      area,
      settings.tools.trim() ? null : this.#example("tools", { tools: JSON.stringify([EXAMPLE_TOOL], null, 2) }),
      settings.tools.trim() ? this.#choice("toolChoice", "Use", choices, chosen, (value) => this.app.set({ toolChoice: value })) : null,
      settings.tools.trim() ? this.#flag("parallel", "Several calls in one reply", settings.parallel, (on) => this.app.set({ parallel: on })) : null,
    ];
  }

  #format() {
    const { settings } = this.app.open;
    const { format } = settings;
    const choose = this.#choice("format", "The reply is", FORMATS, format, (value) => {
      this.app.set({ format: /** @type {typeof format} */ (value) });
      this.#redraw("set-format");
    });
    if (format === "text" || format === "json_object") return [choose];
    const label = FORMATS.find(([key]) => key === format)?.[1] ?? "";
    const check = (/** @type {string} */ text) => faultOf(() => chatBody({ ...settings, fields: {}, tools: "", formatText: text }, [], false));
    const area = this.#area("formatText", label, settings.formatText, (text) => this.app.set({ formatText: text }), { check, mono: true, rows: "3", help: "Kept by construction: the reply cannot break it. It may still be cut by its limit of tokens." });
    const example = format === "json_schema" && !settings.formatText.trim() ? this.#example("formatText", { formatText: JSON.stringify(EXAMPLE_SCHEMA, null, 2) }) : null;
    return [choose, area, example];
  }

  /** @param {string} name @param {Partial<import("../chat/types.mjs").Settings>} parts */
  #example(name, parts) {
    return textButton("Put in an example", () => {
      this.app.set(parts);
      this.#redraw(`set-${name}`);
    }, { class: "button small" });
  }

  /** @param {string} focus id of what gets the focus back */
  #redraw(focus) {
    const moved = document.activeElement?.id;
    const top = this.place.scrollTop;
    this.draw();
    this.place.scrollTop = top;
    document.getElementById(moved || focus)?.focus();
  }

  /** Shows where a setting cannot be sent. @param {SettingError} error */
  point(error) {
    const field = document.getElementById(`set-${error.field}`);
    field?.focus();
    field?.scrollIntoView({ block: "center" });
  }
}

/** @param {string} title @param {(Node | null)[]} children */
function section(title, ...children) {
  const id = `part-${title.replace(/\W/g, "")}`;
  return el("section", { "aria-labelledby": id }, el("h3", { id, text: title }), ...children);
}

/** @param {() => unknown} work @returns {string | null} */
function faultOf(work) {
  try {
    work();
    return null;
  } catch (error) {
    if (error instanceof SettingError) return error.message;
    throw error;
  }
}

/**
 * @param {HTMLInputElement | HTMLTextAreaElement} input @param {HTMLElement} row
 * @param {(text: string) => void} set @param {(text: string) => string | null} check
 */
function watch(input, row, set, check) {
  const told = el("p", { class: "wrong", id: `${input.id}-wrong`, role: "status" });
  const look = () => {
    const fault = check(input.value);
    input.setAttribute("aria-invalid", String(fault !== null && input.value.trim() !== ""));
    told.textContent = input.value.trim() ? (fault ?? "") : "";
    row.classList.toggle("is-set", input.value.trim() !== "");
  };
  input.addEventListener("input", () => {
    set(input.value);
    look();
  });
  row.append(told);
  look();
}

/** Arrow keys count, from the model's own value on. @param {KeyboardEvent} event @param {HTMLInputElement} input @param {Field} field @param {unknown} own */
function step(event, input, field, own) {
  const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const size = field.step ?? 1;
  const from = input.value.trim() ? Number(input.value) : typeof own === "number" ? own : 0;
  if (!Number.isFinite(from)) return;
  const next = Math.min(field.max ?? Infinity, Math.max(field.min ?? -Infinity, from + by * size));
  input.value = String(Number(next.toFixed(4)));
  input.dispatchEvent(new Event("input"));
}
