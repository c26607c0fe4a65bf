/** An event of a `text/event-stream`, as far as Seriatim uses them. */
export interface SseEvent {
  id: string | undefined;
  data: string;
}

/** An event larger than this is none of Seriatim's: outputs have `max_body` at most. */
const LONGEST = 64 * 1024 * 1024;

/** Cuts text that comes in pieces into lines, without their ends. */
export class Lines {
  readonly #decoder = new TextDecoder();
  #rest = '';

  /** The lines that this piece completes. */
  *feed(piece: Uint8Array): Generator<string> {
    this.#rest += this.#decoder.decode(piece, { stream: true });
    let begin = 0;
    for (let end; (end = this.#rest.indexOf('\n', begin)) >= 0; begin = end + 1) {
      yield this.#rest.slice(begin, this.#rest[end - 1] === '\r' && end > begin ? end - 1 : end);
    }
    this.#rest = this.#rest.slice(begin);
    if (this.#rest.length > LONGEST) throw new RangeError(`a line has more than ${LONGEST} characters`);
  }
}

/** Reads the events of a stream that comes in pieces. */
export class SseParser {
  readonly #lines = new Lines();
  #id: string | undefined;
  #data: string[] = [];

  /** The events that this piece completes. */
  *feed(piece: Uint8Array): Generator<SseEvent> {
    for (const line of this.#lines.feed(piece)) {
      if (line === '') {
        if (this.#data.length > 0) yield { id: this.#id, data: this.#data.join('\n') };
        this.#data = [];
        continue;
      }
      const colon = line.indexOf(':');
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'id') this.#id = value;
      if (field === 'data') this.#data.push(value);
    }
  }
}
