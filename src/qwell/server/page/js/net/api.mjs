// What the page asks of the server that sent it: paths are relative, so no other origin is reached.

import { read, write } from "./kept.mjs";
import { SseParser } from "./sse.mjs";

/** @typedef {import("../chat/types.mjs").Fault} Fault */
/** @typedef {{id: string, context: number, sampling: Record<string, unknown>, system: string | null}} Model */

const KEY = "qwell.key";

/** A refusal of the server, or why it could not be reached (status 0). */
export class ServerError extends Error {
  /** @param {Fault} fault */
  constructor(fault) {
    super(fault.message);
    this.fault = fault;
  }
}

/** The key lives as long as the tab. @returns {string} */
export function apiKey() {
  return read("sessionStorage", KEY) ?? "";
}

/** @param {string} key */
export function setApiKey(key) {
  write("sessionStorage", KEY, key || null);
}

/** @returns {Promise<Model>} Throws ServerError. */
export async function fetchModel() {
  const card = (await (await ask("v1/models")).json()).data[0];
  return { id: card.id, context: card.max_model_len, sampling: card.qwell?.sampling ?? {}, system: card.qwell?.system_prompt ?? null };
}

/** @returns {Promise<boolean>} whether the server takes requests; needs no key */
export async function isReady() {
  try {
    return (await fetch("ready", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/**
 * The chunks of a streamed reply. Throws ServerError; returns normally only behind [DONE].
 * @param {object} body @param {AbortSignal} signal
 * @returns {AsyncGenerator<any, void>}
 */
export async function* streamChat(body, signal) {
  const response = await ask("v1/chat/completions", { body: bodyText(body), signal });
  const parser = new SseParser();
  const decoder = new TextDecoder();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (const data of parser.push(decoder.decode(value, { stream: true }))) {
        if (data === "[DONE]") return;
        yield readJson(data);
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof SyntaxError) throw error;
    throw unreachable("The connection ended before the reply did");
  } finally {
    reader.cancel().catch(() => {});
  }
  throw unreachable("The connection ended before the reply did");
}

/** JSON with a seed of 64 bits, which JSON.stringify does not write. @param {object} body */
export function bodyText(body) {
  const { seed, ...rest } = /** @type {{seed?: bigint}} */ (body);
  const text = JSON.stringify(rest);
  return seed === undefined ? text : `${text.slice(0, -1)},"seed":${seed}}`;
}

/** JSON whose whole numbers beyond 2^53 (seeds) come as texts, digit for digit. A quote that ends a
 * name is never behind a backslash, so texts stay as they are. @param {string} text */
export function readJson(text) {
  return JSON.parse(text.replace(/(?<!\\)":(-?\d{16,})(?=[,}])/g, '":"$1"'));
}

/** @param {string} path @param {{body?: string, signal?: AbortSignal}} [how] @returns {Promise<Response>} */
async function ask(path, how = {}) {
  const headers = new Headers({ "content-type": "application/json" });
  if (apiKey()) headers.set("authorization", `Bearer ${apiKey()}`);
  const method = how.body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(path, { method, headers, cache: "no-store", credentials: "omit", ...how });
  } catch (error) {
    if (how.signal?.aborted) throw error;
    throw unreachable("The server cannot be reached");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** @param {string} message */
function unreachable(message) {
  return new ServerError({ status: 0, code: "unreachable", param: null, message, retryAt: null });
}

/** @param {Response} response */
async function refusal(response) {
  const told = (await response.json().catch(() => null))?.error ?? {};
  const seconds = Number(response.headers.get("retry-after"));
  return new ServerError({
    status: response.status,
    code: told.code ?? null,
    param: told.param ?? null,
    message: typeof told.message === "string" ? told.message : response.statusText,
    retryAt: seconds > 0 ? Date.now() + seconds * 1000 : null,
  });
}
