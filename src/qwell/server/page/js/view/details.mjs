// What the server says it did with a request, and how likely each token was.

import { el, shown } from "./dom.mjs";
import { codeBlock } from "./prose.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */

/** @param {Turn} turn @param {number} index of its choice among the versions of one request */
export function drawDetails(turn, index) {
  const truth = /** @type {any} */ (turn.truth);
  const box = el("div", { class: "details" });
  if (truth) {
    box.append(...readable(turn, truth, index));
  } else {
    box.append(el("p", { class: "quiet", text: "The reply did not reach its end, so the server has not told what it did." }));
  }
  if (turn.logprobs.length) box.append(tokenView(turn));
  if (truth) box.append(el("details", {}, el("summary", { text: "As the server sent it" }), codeBlock(JSON.stringify(truth, null, 2), "json")));
  return box;
}

/** An imported file may have any shape here; then its text alone is shown.
 * @param {Turn} turn @param {any} truth @param {number} index @returns {HTMLElement[]} */
function readable(turn, truth, index) {
  try {
    return [factList(facts(turn, truth, index)), samplingTable(truth.sampling ?? {})];
  } catch {
    return [el("p", { class: "quiet", text: "These facts have a shape this page does not know." })];
  }
}

/** @param {Turn} turn @param {any} truth @param {number} index @returns {[string, string][]} */
function facts(turn, truth, index) {
  const end = truth.choices?.[index] ?? truth.choices?.[0] ?? {};
  const times = end.timings ?? {};
  const rows = [
    ["Model", turn.model],
    ["Prompt tokens sent", count(truth.prompt_tokens_sent)],
    ["… used", count(truth.prompt_tokens_used)],
    ["… taken from the cache", count(truth.prompt_tokens_cached)],
    ["Reply tokens", count(truth.completion_tokens)],
    ["Context", count(truth.max_context)],
    ["First token after", rate(times.ttft_ms, "ms")],
    ["Reading", rate(times.prefill_tok_per_s, "tokens/s")],
    ["Writing", rate(times.decode_tok_per_s, "tokens/s")],
    ["System prompt from", truth.system_prompt],
    ["Template", truth.template],
    ["Tools shown", count(truth.tools_shown)],
    ["Grammar", truth.grammar ?? "none"],
    ["Ended by", end.stop_reason == null ? end.finish_reason : `${end.finish_reason}: ${JSON.stringify(end.stop_reason)}`],
    ["Loop detected", end.detected_loop ? "yes" : "no"],
    ["Seed", end.seed == null ? null : String(end.seed)],
    ["Fields without effect", truth.ignored?.length ? truth.ignored.join(", ") : "none"],
  ];
  return /** @type {[string, string][]} */ (rows.filter(([, value]) => value !== null && value !== undefined));
}

/** @param {unknown} value */
const count = (value) => (typeof value === "number" ? shown(value) : null);
/** @param {unknown} value @param {string} unit */
const rate = (value, unit) => (typeof value === "number" ? `${shown(value, value < 100 ? 1 : 0)} ${unit}` : null);

/** @param {[string, string][]} rows */
function factList(rows) {
  return el("dl", { class: "facts" }, ...rows.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))));
}

/** @param {Record<string, {value: unknown, from: string}>} sampling */
function samplingTable(sampling) {
  const rows = Object.entries(sampling).map(([name, one]) =>
    el("tr", {}, el("th", { scope: "row", text: name }), el("td", { text: one.value === null ? "–" : typeof one.value === "string" ? one.value : JSON.stringify(one.value) }), el("td", { text: one.from })),
  );
  const head = el("tr", {}, ...["Sampling", "In force", "From"].map((text) => el("th", { scope: "col", text })));
  return el("table", { class: "sampling" }, el("thead", {}, head), el("tbody", {}, ...rows));
}

const MOST_TOKENS = 4000;

/** Every token tinted by its probability; the alternatives stand in its title. @param {Turn} turn */
function tokenView(turn) {
  const tokens = turn.logprobs.slice(0, MOST_TOKENS).map(({ token, logprob, top }) => {
    const percent = (/** @type {number} */ value) => `${shown(100 * Math.exp(value), 1)} %`;
    const others = top.map((one) => `${JSON.stringify(one.token)} ${percent(one.logprob)}`).join("\n");
    const level = Math.min(4, Math.floor(-logprob / 0.7));
    return el("span", { class: `token likely-${level}`, title: `${percent(logprob)}\n${others}`.trim(), text: token });
  });
  const left = turn.logprobs.length - MOST_TOKENS;
  const more = left > 0 ? el("p", { class: "quiet", text: `and ${shown(left)} more tokens` }) : null;
  return el("section", { class: "tokens", "aria-label": "Tokens by likelihood" }, el("h3", { text: "Tokens, the less likely the darker" }), el("p", { dir: "auto" }, ...tokens), more);
}
