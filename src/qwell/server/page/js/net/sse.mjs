// Server-sent events out of text that comes in any pieces. Pure.

const MOST = 32 << 20;

/** Knows `data` alone: that is all OpenAI's streams have. Comments are signs of life. */
export class SseParser {
  #rest = "";
  /** @type {string[]} */
  #data = [];
  #endsInCr = false;

  /**
   * The data of the events this piece completes.
   * @param {string} text
   * @returns {string[]}
   */
  push(text) {
    let piece = text;
    if (this.#endsInCr && piece.startsWith("\n")) piece = piece.slice(1);
    if (piece) this.#endsInCr = piece.endsWith("\r");
    const lines = (this.#rest + piece).split(/\r\n|\n|\r/);
    this.#rest = /** @type {string} */ (lines.pop());
    if (this.#rest.length > MOST) throw new Error("a line of the stream has no end");
    return lines.flatMap((line) => this.#line(line));
  }

  /** @param {string} line @returns {string[]} */
  #line(line) {
    if (line === "") {
      const event = this.#data;
      this.#data = [];
      return event.length ? [event.join("\n")] : [];
    }
    const found = /^data(?:: ?(.*))?$/s.exec(line);
    if (found) this.#data.push(found[1] ?? "");
    return [];
  }
}
