// A path of turns and a conversation's settings become the body of POST /v1/chat/completions. Pure.

import { FIELDS, readField, readJson, readObject, SettingError } from "./fields.mjs";

/** @typedef {import("./types.mjs").Turn} Turn */
/** @typedef {import("./types.mjs").Settings} Settings */

/**
 * @param {Settings} settings
 * @param {Turn[]} path ends with what the model answers to; or, to go on with a reply, with that reply
 * @param {boolean} goesOn the last turn is the model's and is continued
 * @returns {Record<string, unknown>} Throws SettingError.
 */
export function chatBody(settings, path, goesOn) {
  const { deadline_s, top_logprobs, n, ...fields } = readFields(settings);
  const qwell = { truth: true, ...(deadline_s === undefined ? {} : { deadline_s }) };
  const body = {
    messages: messagesOf(settings, path, goesOn),
    ...fields,
    ...(n === undefined || goesOn ? {} : { n }),
    ...(top_logprobs === undefined ? {} : { logprobs: true, top_logprobs }),
    ...toolFields(settings, goesOn),
    ...formatFields(settings),
    stream: true,
    stream_options: { include_usage: true },
    qwell,
  };
  if (goesOn && settings.format !== "text") {
    throw new SettingError("format", "A reply with a format cannot be gone on with: the format would begin anew. Ask again instead");
  }
  return body;
}

/** @param {Settings} settings @returns {Record<string, unknown>} */
export function readFields(settings) {
  const given = FIELDS.map((field) => [field.name, readField(field, settings.fields[field.name])]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

/** @param {Settings} settings @param {Turn[]} path @param {boolean} goesOn */
function messagesOf(settings, path, goesOn) {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  const turns = path.filter((turn) => turn.role !== "assistant" || turn.content || turn.calls.length);
  const messages = [...system, ...turns.map(messageOf)];
  if (goesOn) Object.assign(messages[messages.length - 1], { partial: true });
  return messages;
}

/** @param {Turn} turn @returns {Record<string, unknown>} */
function messageOf(turn) {
  if (turn.role === "tool") return { role: "tool", tool_call_id: turn.callId, content: turn.content };
  if (!turn.calls.length) return { role: turn.role, content: turn.content };
  const calls = turn.calls.map((call) => ({
    id: call.id, type: "function", function: { name: call.name, arguments: call.arguments },
  }));
  return { role: turn.role, content: turn.content || null, tool_calls: calls };
}

/** @param {Settings} settings @param {boolean} goesOn */
function toolFields(settings, goesOn) {
  const tools = readTools(settings.tools);
  if (!tools.length) return {};
  const named = settings.toolChoice.startsWith("=");
  const choice = named ? { type: "function", function: { name: settings.toolChoice.slice(1) } } : settings.toolChoice;
  if (goesOn && (named || choice === "required")) {
    throw new SettingError("toolChoice", "A reply cannot be gone on with while a call is required: set tool use to auto");
  }
  return { tools, tool_choice: choice, ...(settings.parallel ? {} : { parallel_tool_calls: false }) };
}

/** The tools of the panel, each in OpenAI's shape. Throws SettingError. @param {string} text @returns {any[]} */
export function readTools(text) {
  if (!text.trim()) return [];
  const value = readJson("tools", "Tools", text);
  const list = Array.isArray(value) ? value : [value];
  return list.map((tool, i) => {
    // A bare function, as many documents show them, is what a tool wraps.
    const isBare = tool && typeof tool === "object" && typeof tool.name === "string" && !("type" in tool && "function" in tool);
    const shaped = isBare ? { type: "function", function: tool } : tool;
    if (typeof shaped?.function?.name !== "string") {
      throw new SettingError("tools", `Tools: entry ${i + 1} has no function name`);
    }
    return shaped;
  });
}

/** @param {Settings} settings @returns {Record<string, unknown>} */
function formatFields(settings) {
  const { format, formatText } = settings;
  if (format === "text") return {};
  if (format === "json_object") return { response_format: { type: "json_object" } };
  if (!formatText.trim()) throw new SettingError("formatText", "Output format: it is empty");
  if (format === "json_schema") {
    const schema = readObject("formatText", "JSON Schema", formatText);
    return { response_format: { type: "json_schema", json_schema: { name: "reply", schema } } };
  }
  if (format === "choice") return { structured_outputs: { choice: formatText.split("\n").filter(Boolean) } };
  return { structured_outputs: { [format]: formatText } };
}
