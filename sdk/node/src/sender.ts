/**
 * The queue in front of `POST /v1/messages`.
 *
 * Messages leave in the order in which they were given to it, one request at a time a chain: while
 * one is on its way the next ones gather, and those that can share a request become one NDJSON
 * upload. So order costs no speed, and there is never a second request that could overtake.
 *
 * A request whose outcome is unknown is sent again under the same idempotency key until it is
 * known; Seriatim removes the duplicates, in log order. Where an upload was sent twice, the first
 * copy of each message counts, so the order is kept even if the attempts interleave.
 */
import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { SeriatimError } from './errors.js';
import { type Http, refused } from './http.js';
import type { Encoded } from './message.js';
import { Backoff, pause } from './retry.js';

/** Where a message stands. */
export interface Accepted {
  /** `LANE-OFFSET`; what {@link Client.message} takes. */
  id: string;
  lane: number;
  offset: number;
}

export interface SenderOptions {
  /** What has to leave in order: every call, or only those with the same key. */
  order: 'call' | 'key';
  /** Requests at once; with `order: 'call'` there is one. */
  maxInFlight: number;
  /** Messages that wait or are on their way. */
  maxQueued: number;
  /** Bytes of them. */
  maxQueuedBytes: number;
  /** Milliseconds after which a request that gets no final answer is given up. */
  giveUpAfter: number;
}

/** Messages of one upload: at a commit a millisecond enough for a million a second. */
const UPLOAD_MESSAGES = 1_000;
/** Bytes of one upload, beside one longer message: two of them fit into what a lane queues. */
const UPLOAD_BYTES = 512 * 1024;

interface Entry {
  message: Encoded;
  resolve: (accepted: Accepted) => void;
  reject: (error: SeriatimError) => void;
  settled: boolean;
}

/** Messages that have to leave one after the other. */
interface Chain {
  name: string;
  queue: Entry[];
}

/** See the module's documentation. */
export class Sender {
  readonly #http: Http;
  readonly #options: SenderOptions;
  readonly #chains = new Map<string, Chain>();
  /** Chains that wait for a free place, first come first served. */
  readonly #waiting: Chain[] = [];
  readonly #stop = new AbortController();
  #inFlight = 0;
  #queued = 0;
  #queuedBytes = 0;
  #closed = false;
  /** Woken whenever a message is settled. */
  #listeners: (() => void)[] = [];

  constructor(http: Http, options: SenderOptions) {
    this.#http = http;
    this.#options = options;
    // Each request on its way listens to it.
    setMaxListeners(0, this.#stop.signal);
  }

  /** Queues a message; resolves once it is durable. */
  send(message: Encoded): Promise<Accepted> {
    if (this.#closed) return Promise.reject(notSent('closed', 'this client is closed'));
    if (this.#isFull(message)) {
      return Promise.reject(
        notSent('queue-full', `${this.#queued} messages wait to be sent; await some of them first`),
      );
    }
    return new Promise((resolve, reject) => {
      this.#queued += 1;
      this.#queuedBytes += message.body.length;
      this.#chain(message).queue.push({ message, resolve, reject, settled: false });
      this.#start();
    });
  }

  /** Resolves when there is room for this message. */
  async room(message: Encoded): Promise<void> {
    while (this.#isFull(message) && !this.#closed) await this.#settlement();
  }

  /** Sends what is queued and no more; after `timeout` milliseconds gives up what is left. */
  async close(timeout: number): Promise<void> {
    this.#closed = true;
    const late = () =>
      this.#stop.abort(notSent('closed', 'the client was closed before there was an answer').inDoubt());
    const timer = setTimeout(late, timeout);
    while (this.#queued > 0) await this.#settlement();
    clearTimeout(timer);
  }

  #isFull({ body }: Encoded): boolean {
    const bytes = this.#queuedBytes + body.length;
    return this.#queued >= this.#options.maxQueued || (this.#queued > 0 && bytes > this.#options.maxQueuedBytes);
  }

  #settlement(): Promise<void> {
    return new Promise((resolve) => this.#listeners.push(resolve));
  }

  #chain({ headers }: Encoded): Chain {
    const name = this.#options.order === 'key' ? (headers['seriatim-key'] ?? '') : '';
    let chain = this.#chains.get(name);
    if (!chain) {
      chain = { name, queue: [] };
      this.#chains.set(name, chain);
      this.#waiting.push(chain);
    }
    return chain;
  }

  #start(): void {
    while (this.#inFlight < this.#options.maxInFlight) {
      const chain = this.#waiting.shift();
      if (!chain) return;
      this.#inFlight += 1;
      void this.#turn(chain);
    }
  }

  /** One request of a chain; then it goes behind the others that wait. */
  async #turn(chain: Chain): Promise<void> {
    // Those of the same tick share the request.
    await Promise.resolve();
    await this.#deliver(chain, take(chain.queue));
    this.#inFlight -= 1;
    if (chain.queue.length > 0) this.#waiting.push(chain);
    else this.#chains.delete(chain.name);
    this.#start();
  }

  /** Settles these messages, however many attempts it takes. Never rejects. */
  async #deliver(chain: Chain, entries: Entry[]): Promise<void> {
    const backoff = new Backoff();
    const until = Date.now() + this.#options.giveUpAfter;
    let key = randomUUID() as string;
    let inDoubt = false;
    for (let left = entries; ;) {
      const error = await this.#attempt(left, key);
      const unsettled = left.filter((entry) => !entry.settled);
      if (!error || unsettled.length === 0) return;
      inDoubt ||= error.outcome === 'unknown';
      const wait = backoff.next(error.retryAfter);
      if (!error.retryable || this.#stop.signal.aborted || Date.now() + wait > until) {
        return this.#giveUp(chain, unsettled, inDoubt ? error.inDoubt() : error);
      }
      // What was certainly not written may go under another key, without those that were.
      if (!inDoubt) [left, key] = [unsettled, randomUUID()];
      await pause(wait, this.#stop.signal).catch(() => {});
    }
  }

  /** One request. Settles what has a final answer, and returns why the rest has none. */
  async #attempt(entries: Entry[], key: string): Promise<SeriatimError | undefined> {
    try {
      const [first] = entries;
      if (first && entries.length === 1) await this.#single(first, key);
      else await this.#upload(entries, key);
      return undefined;
    } catch (error) {
      if (error instanceof SeriatimError) return error;
      // Nothing above throws anything else; if it does, the messages must not wait for ever.
      const details = { code: 'bad-answer', retryable: false, outcome: 'unknown', cause: error } as const;
      return new SeriatimError(String(error), details);
    }
  }

  async #single(entry: Entry, key: string): Promise<void> {
    const { message } = entry;
    const answer = await this.#http.exchange('v1/messages', {
      method: 'POST',
      headers: {
        ...message.headers,
        'content-type': message.contentType,
        'idempotency-key': message.idempotencyKey ?? key,
      },
      body: message.body,
      signal: this.#stop.signal,
    });
    this.#accept(entry, accepted(parse(answer.text)));
  }

  async #upload(entries: Entry[], key: string): Promise<void> {
    const [first] = entries;
    const lines = entries.flatMap(({ message }) => [message.body, NEWLINE]);
    const answer = await this.#http.exchange('v1/messages', {
      method: 'POST',
      headers: { ...first?.message.headers, 'content-type': 'application/x-ndjson', 'idempotency-key': key },
      body: Buffer.concat(lines),
      signal: this.#stop.signal,
    });
    const { results } = parse(answer.text);
    if (!Array.isArray(results)) throw badAnswer(answer.text);
    const errors: SeriatimError[] = [];
    for (const [index, entry] of entries.entries()) {
      const result: unknown = results[index];
      const error =
        isObject(result) && isObject(result['problem'])
          ? refused(Number(result['status']), result['problem'])
          : undefined;
      if (!error) this.#accept(entry, accepted(result));
      else if (error.retryable) errors.push(error);
      else this.#reject(entry, error);
    }
    const worst = errors.find((error) => error.outcome === 'unknown') ?? errors[0];
    if (worst) throw worst;
  }

  /**
   * Rejects these messages. Where it is not known what became of them, those behind them are
   * rejected, too: sent now, they might stand before what is still on its way.
   */
  #giveUp(chain: Chain, entries: Entry[], error: SeriatimError): void {
    for (const entry of entries) this.#reject(entry, error);
    if (error.outcome !== 'unknown') return;
    const behind = notSent(
      'abandoned',
      `not sent, because it is unknown what became of a message before it: ${error.message}`,
    );
    for (const entry of chain.queue.splice(0)) this.#reject(entry, behind);
  }

  #accept(entry: Entry, accepted: Accepted): void {
    if (this.#settle(entry)) entry.resolve(accepted);
  }

  #reject(entry: Entry, error: SeriatimError): void {
    if (this.#settle(entry)) entry.reject(error);
  }

  /** `false` where an earlier attempt has settled it. */
  #settle(entry: Entry): boolean {
    if (entry.settled) return false;
    entry.settled = true;
    this.#queued -= 1;
    this.#queuedBytes -= entry.message.body.length;
    for (const wake of this.#listeners.splice(0)) wake();
    return true;
  }
}

const NEWLINE = Buffer.from('\n');

/** The first messages of a queue that can share a request: at least one. */
function take(queue: Entry[]): Entry[] {
  const envelope = queue[0]?.message.envelope;
  let bytes = 0;
  let count = 0;
  for (const { message } of queue) {
    bytes += message.body.length;
    const fits = count < UPLOAD_MESSAGES && bytes <= UPLOAD_BYTES;
    if (count > 0 && (!fits || envelope === undefined || message.envelope !== envelope)) break;
    count += 1;
  }
  return queue.splice(0, count);
}

function notSent(code: string, message: string): SeriatimError {
  return new SeriatimError(message, { code, retryable: true, outcome: 'refused' });
}

function badAnswer(text: string): SeriatimError {
  const details = { code: 'bad-answer', retryable: true, outcome: 'unknown' } as const;
  return new SeriatimError(`the answer is not what it should be: ${text.slice(0, 200)}`, details);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object';
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch {
    // As below: an answer that broke off, or is of somebody else.
  }
  throw badAnswer(text);
}

function accepted(value: unknown): Accepted {
  if (isObject(value) && typeof value['id'] === 'string') {
    return { id: value['id'], lane: Number(value['lane']), offset: Number(value['offset']) };
  }
  throw badAnswer(JSON.stringify(value) ?? 'nothing');
}
