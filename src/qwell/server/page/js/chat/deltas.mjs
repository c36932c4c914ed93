// The chunks of a stream become a turn. Pure; knows no network.

/** @typedef {import("./types.mjs").Turn} Turn */

/** A fault the server told inside a stream that had begun well. */
export class StreamFault extends Error {
  /** @param {{message?: unknown, code?: unknown, type?: unknown}} error */
  constructor(error) {
    super(typeof error.message === "string" ? error.message : "the server ended the reply with a fault");
    this.code = typeof error.code === "string" ? error.code : null;
    this.status = error.type === "overloaded_error" ? 503 : error.type === "rate_limit_error" ? 429 : 500;
  }
}

/**
 * Takes one chunk into the turns of its choices. Throws StreamFault for one that tells a fault.
 * @param {Turn[]} turns by choice
 * @param {any} chunk
 * @returns {boolean} whether something of the reply itself came
 */
export function takeChunk(turns, chunk) {
  if (chunk?.error) throw new StreamFault(chunk.error);
  let isNew = false;
  for (const choice of Array.isArray(chunk?.choices) ? chunk.choices : []) {
    const turn = turns[choice.index];
    if (turn) isNew = takeChoice(turn, choice) || isNew;
  }
  for (const turn of turns) takeFacts(turn, chunk, turns.length);
  return isNew;
}

/** @param {Turn} turn @param {any} choice */
function takeChoice(turn, choice) {
  const delta = choice.delta ?? {};
  const hasText = typeof delta.content === "string" && delta.content !== "";
  if (hasText) turn.content += delta.content;
  for (const part of delta.tool_calls ?? []) takeCall(turn, part);
  for (const one of choice.logprobs?.content ?? []) {
    const top = (one.top_logprobs ?? []).map((/** @type {any} */ t) => ({ token: String(t.token), logprob: Number(t.logprob) }));
    turn.logprobs.push({ token: String(one.token), logprob: Number(one.logprob), top });
  }
  if (typeof choice.finish_reason === "string") turn.finish = choice.finish_reason;
  if (choice.qwell?.malformed_tool_call) turn.malformed = true;
  return hasText || Boolean(delta.tool_calls?.length);
}

/** @param {Turn} turn @param {any} part */
function takeCall(turn, part) {
  const call = (turn.calls[part.index] ??= { id: "", name: "", arguments: "" });
  if (typeof part.id === "string") call.id = part.id;
  if (typeof part.function?.name === "string") call.name += part.function.name;
  if (typeof part.function?.arguments === "string") call.arguments += part.function.arguments;
}

/** @param {Turn} turn @param {any} chunk @param {number} count of choices */
function takeFacts(turn, chunk, count) {
  if (typeof chunk?.model === "string") turn.model = chunk.model;
  if (chunk?.qwell?.truth) turn.truth = chunk.qwell.truth;
  const usage = chunk?.usage;
  // The counts are those of all choices; for one among several only the prompt's is known.
  if (usage && count === 1) {
    turn.usage = { prompt: usage.prompt_tokens, reply: usage.completion_tokens, cached: usage.prompt_tokens_details?.cached_tokens ?? 0, isRest: false };
  }
}
