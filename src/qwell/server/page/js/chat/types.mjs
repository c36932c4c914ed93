// The shapes everything here talks about. Types alone; nothing runs.

/**
 * A turn. Turns form a tree: editing or asking again adds a sibling, nothing is overwritten.
 * @typedef {object} Turn
 * @property {string} id
 * @property {string | null} parent
 * @property {"user" | "assistant" | "tool"} role
 * @property {string} content
 * @property {number} created milliseconds
 * @property {Status} status
 * @property {ToolCall[]} calls of an assistant's turn
 * @property {string | null} callId of a tool's turn: the call it answers
 * @property {string | null} finish why the reply ended, in the server's words
 * @property {boolean} malformed text that began like a tool call and is none
 * @property {boolean} edited by hand: the model did not say it so
 * @property {Fault | null} fault
 * @property {Usage | null} usage
 * @property {Speed | null} speed
 * @property {string | null} model
 * @property {object | null} truth what the server says it did
 * @property {TokenProb[]} logprobs
 */

/**
 * "interrupted": the page or the connection ended while it was written; "stopped": by the user.
 * @typedef {"done" | "streaming" | "stopped" | "interrupted" | "failed"} Status
 */

/** @typedef {{id: string, name: string, arguments: string}} ToolCall */
/** @typedef {{status: number, code: string | null, param: string | null, message: string, retryAt: number | null}} Fault */
/** @typedef {{prompt: number, reply: number, cached: number, isRest: boolean}} Usage tokens; isRest: of the last part of a reply that was gone on with */
/** @typedef {{firstMs: number, lastMs: number, pieces: number}} Speed as seen in this browser, from sending on */
/** @typedef {{token: string, logprob: number, top: {token: string, logprob: number}[]}} TokenProb */

/**
 * @typedef {object} Settings every text as it was typed
 * @property {string} system
 * @property {Record<string, string>} fields name of a request field -> text; absent: the model's own
 * @property {string} tools JSON
 * @property {string} toolChoice
 * @property {boolean} parallel
 * @property {"text" | "json_object" | "json_schema" | "regex" | "grammar" | "choice"} format
 * @property {string} formatText
 */

/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} isNamed the user chose the title
 * @property {number} created
 * @property {number} updated
 * @property {Settings} settings
 * @property {Turn[]} turns in order of creation
 * @property {Record<string, string>} selected parent ("root" for none) -> the child that is shown
 */

export {};
