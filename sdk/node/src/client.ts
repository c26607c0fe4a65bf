import { type Batches, createBatches } from './batches.js';
import { BatchInterrupted, SeriatimError } from './errors.js';
import { type FollowOptions, type Output, follow, read } from './follow.js';
import { Http } from './http.js';
import { type Body, type SendOptions, encode } from './message.js';
import { type Accepted, Sender, type SenderOptions } from './sender.js';

export type { Accepted } from './sender.js';
export type { FollowOptions, Output } from './follow.js';

export interface ClientOptions extends Partial<SenderOptions> {
  /** Of the data port, such as `http://127.0.0.1:8080`. */
  url: string | URL;
  /** A bearer token, where the server wants one. */
  token?: string;
  /** Milliseconds for one request: 40,000, above the 30 s that the server gives its log. */
  timeout?: number;
  /** In place of Node's own, for instance to bring a certificate. */
  fetch?: typeof fetch;
}

/** What became of a message of {@link Client.sendBatch}. */
export type Sent = { accepted: Accepted; error?: undefined } | { accepted?: undefined; error: SeriatimError };

/** What has become of a message so far; the members beside `state` depend on it. */
export interface MessageState {
  id: string;
  lane: number;
  offset: number;
  state: 'accepted' | 'sent' | 'retrying' | 'ready' | 'released' | 'failed' | 'halted' | 'duplicate';
  [member: string]: unknown;
}

/** A connection to Seriatim's data port. Cheap; one a process is enough. */
export interface Client {
  /**
   * Sends one message: resolves once it is durable, rejects with a {@link SeriatimError}.
   *
   * Messages leave in the order of the calls, whether or not they are awaited. Overload, lost
   * connections and unknown outcomes are retried under one idempotency key, for `giveUpAfter`
   * (5 minutes); a message that is refused for good does not hold up those behind it, one whose
   * outcome stays unknown takes them with it (`abandoned`). A full queue rejects at once.
   */
  send(body: Body, options?: SendOptions): Promise<Accepted>;

  /**
   * Sends many, in order, as few requests, with as much memory as the queue has: reads on as they
   * are answered. Resolves with what became of each; rejects with {@link BatchInterrupted} where
   * one stays unknown, since those behind it must not overtake it, and where `bodies` fails.
   */
  sendBatch(
    bodies: Iterable<Body> | AsyncIterable<Body>,
    options?: Omit<SendOptions, 'idempotencyKey'>,
  ): Promise<Sent[]>;

  /** What has become of a message. */
  message(id: string): Promise<MessageState>;

  /** The ordered outputs of a destination that are there now. */
  outputs<T = unknown>(destination?: string, options?: FollowOptions): AsyncGenerator<Output<T>>;

  /**
   * The ordered outputs of a destination as they come. Comes back by itself when the connection is
   * lost and goes on behind the last one; ends by `signal` or `break`. Keep an output's `cursor`
   * with what you make of it and give it as `after` to go on after a restart.
   */
  follow<T = unknown>(destination?: string, options?: FollowOptions): AsyncGenerator<Output<T>>;

  /** Staggered batches. */
  readonly batches: Batches;

  /** Sends what is queued and takes no more; after `timeout` milliseconds (10,000) gives up the rest. */
  close(options?: { timeout?: number }): Promise<void>;
}

const DEFAULTS: SenderOptions = {
  order: 'call',
  maxInFlight: 16,
  maxQueued: 10_000,
  maxQueuedBytes: 64 * 1024 * 1024,
  giveUpAfter: 5 * 60 * 1000,
};

/** A client of the data port at `url`. Connects to nothing yet. */
export function createClient(options: ClientOptions): Client {
  const { url, token, timeout = 40_000, fetch: fetcher = fetch, ...rest } = options;
  const http = new Http({ url, token, timeout, fetch: fetcher });
  const queue = { ...DEFAULTS, ...rest };
  const sender = new Sender(http, queue);
  return {
    send: async (body, options) => sender.send(encode(body, options)),
    sendBatch: (bodies, options) => sendBatch(sender, bodies, options),
    message: async (id) => {
      const answer = await http.exchange(`v1/messages/${encodeURIComponent(id)}`);
      return JSON.parse(answer.text) as MessageState;
    },
    outputs: (destination = 'default', options = {}) => read(http, destination, options),
    follow: (destination = 'default', options = {}) => follow(http, destination, options),
    batches: createBatches(http, queue.giveUpAfter),
    close: ({ timeout = 10_000 } = {}) => sender.close(timeout),
  };
}

async function sendBatch(
  sender: Sender,
  bodies: Iterable<Body> | AsyncIterable<Body>,
  options: SendOptions = {},
): Promise<Sent[]> {
  const results: Promise<Sent>[] = [];
  let unknown: SeriatimError | undefined;
  const failed = (error: SeriatimError): Sent => {
    if (error.outcome === 'unknown' || error.code === 'abandoned') unknown ??= error;
    return { error };
  };
  try {
    for await (const body of bodies) {
      const message = encode(body, options);
      await sender.room(message);
      if (unknown) break;
      results.push(sender.send(message).then((accepted) => ({ accepted }), failed));
    }
  } catch (error) {
    // What cannot be read or encoded; what was read before it is on its way.
    throw new BatchInterrupted(String(error), await Promise.all(results), error);
  }
  const settled = await Promise.all(results);
  if (unknown) throw new BatchInterrupted(`the rest was not sent: ${unknown.message}`, settled, unknown);
  return settled;
}
