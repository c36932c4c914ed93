// Replies being written: one run for a conversation, any number of conversations at a time.

import { ServerError, streamChat } from "../net/api.mjs";
import { StreamFault, takeChunk } from "../chat/deltas.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {import("../chat/types.mjs").Conversation} Conversation */

/** @typedef {{conversation: Conversation, turns: Turn[], stop: AbortController, started: number}} Run */

export class Runner {
  /** @type {Map<string, Run>} */
  runs = new Map();

  /** @param {(run: Run, isEnd: boolean) => void} onChange hears of every chunk and of the end */
  constructor(onChange) {
    this.onChange = onChange;
  }

  /** @param {string} conversation id */
  isRunning(conversation) {
    return this.runs.has(conversation);
  }

  /** @param {string} conversation id */
  stop(conversation) {
    this.runs.get(conversation)?.stop.abort();
  }

  /**
   * Writes a reply into `turns` (one for each choice) until it ends in any way; never throws.
   * @param {Conversation} conversation @param {Turn[]} turns @param {object} body
   */
  async run(conversation, turns, body) {
    const run = { conversation, turns, stop: new AbortController(), started: performance.now() };
    this.runs.set(conversation.id, run);
    const rest = turns[0].content !== "";
    for (const turn of turns) Object.assign(turn, { status: "streaming", fault: null, finish: null, usage: null, speed: null, truth: null });
    this.onChange(run, false);
    try {
      for await (const chunk of streamChat(body, run.stop.signal)) {
        this.#take(run, chunk);
        this.onChange(run, false);
      }
      for (const turn of turns) turn.status = "done";
    } catch (error) {
      for (const turn of turns) endBadly(turn, error, run.stop.signal.aborted);
    }
    for (const turn of turns) if (turn.usage) turn.usage.isRest = rest;
    this.runs.delete(conversation.id);
    this.onChange(run, true);
  }

  /** @param {Run} run @param {any} chunk */
  #take(run, chunk) {
    if (!takeChunk(run.turns, chunk)) return;
    const now = performance.now() - run.started;
    for (const turn of run.turns) {
      turn.speed ??= { firstMs: now, lastMs: now, pieces: 0 };
      turn.speed.lastMs = now;
      turn.speed.pieces += 1;
    }
  }
}

/** @param {Turn} turn @param {unknown} error @param {boolean} wasStopped */
function endBadly(turn, error, wasStopped) {
  if (turn.finish !== null) {
    turn.status = "done"; // this choice had ended before
    return;
  }
  if (wasStopped) {
    turn.status = "stopped";
    return;
  }
  const hasBegun = turn.content !== "" || turn.calls.length > 0;
  turn.status = hasBegun ? "interrupted" : "failed";
  turn.fault = faultOf(error);
}

/** @param {unknown} error @returns {import("../chat/types.mjs").Fault} */
function faultOf(error) {
  if (error instanceof ServerError) return error.fault;
  if (error instanceof StreamFault) return { status: error.status, code: error.code, param: null, message: error.message, retryAt: null };
  return { status: 0, code: "stream", param: null, message: `The stream could not be read: ${error}`, retryAt: null };
}
