import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PermanentError } from './errors.js';
import { type Handler, MAX_BODY, Service, type ServiceOptions, report } from './service.js';
import { verify } from './signature.js';
import { MemoryStore, type Place, type Store, type Verdict } from './store.js';
import { json } from './worker.js';

/** An item that was pushed. */
export interface Item {
  /** Stable over all attempts, and unlike that of any other item. */
  id: string;
  destination: string;
  lane: number;
  /** Contiguous within destination and lane. */
  sequence: number;
  /** Items of the same group come in order, one at a time. */
  group: string;
  /** The message that it comes from, `LANE-OFFSET`. */
  source: string;
  /** The replay that it is part of. */
  replay: string | undefined;
  contentType: string | undefined;
  headers: IncomingHttpHeaders;
  body: Buffer;
  text(): string;
  /** The body as JSON; what is none is refused for good. */
  json<T = any>(): T;
}

export interface ReceiverOptions<Tx> extends Partial<ServiceOptions> {
  /**
   * The destination's secrets, `whsec_...`: several while they are changed, or a function that
   * reads them. `'unsigned'` takes pushes from anybody who reaches the port.
   */
  secrets: string[] | (() => string[] | Promise<string[]>) | 'unsigned';
  /** Seconds that a signature may be old or early: 300. */
  tolerance?: number;
  /** Where it is noted what was applied; in memory unless set. */
  store?: Store<Tx>;
  /** Replays to take part in: what was applied before is applied again, once. None unless set. */
  replays?: string[] | ((id: string) => boolean);
  /** How many items may come in one request, if the destination has `batch` set: 100. */
  items?: number;
  /** Hears of every item that is not applied, and why. */
  onVerdict?: (verdict: Verdict, place: Place) => void;
}

export interface Receiver {
  /** Listens; port 0 takes a free one. Only this machine may call unless `host` says more. */
  listen(port?: number, host?: string): Promise<AddressInfo>;
  /** For a server of your own: `http.createServer(receiver.listener)`. */
  readonly listener: (request: IncomingMessage, response: ServerResponse) => void;
  /** Takes no more and finishes what is in hand; after `timeout` milliseconds (10,000) cuts it off. */
  close(options?: { timeout?: number }): Promise<void>;
}

/**
 * A receiver of pushes out of one function, which is called once for each item, and in order
 * within a sequence group.
 *
 * The handler runs in a transaction of the store, beside the note that the item was applied; `tx` is
 * what the store makes of that. It throws {@link PermanentError} to refuse an item for good (the
 * destination's policy decides) and anything else to get it again.
 */
export function createReceiver<Tx = Place[]>(
  handler: (item: Item, tx: Tx) => unknown,
  options: ReceiverOptions<Tx>,
): Receiver {
  const { secrets, tolerance = 300, replays, items = 100, onVerdict, ...rest } = options;
  if (Array.isArray(secrets)) {
    if (secrets.length === 0) throw new TypeError('give at least one secret');
    // A wrong one is found here rather than at the first push.
    verify(secrets, {}, Buffer.alloc(0));
  }
  // Without a store `Tx` is what the one in memory has, by the default of the type.
  const store = options.store ?? (new MemoryStore() as unknown as Store<Tx>);
  const turns = new Turns();
  const takesPart = (id: string) => (typeof replays === 'function' ? replays(id) : (replays?.includes(id) ?? false));
  const serve: Handler = async (request, response, body) => {
    if (secrets !== 'unsigned') {
      const current = typeof secrets === 'function' ? await secrets() : secrets;
      if (!verify(current, request.headers, body, tolerance)) throw unsigned();
    }
    const answer = (status: number) => {
      if (!response.destroyed) response.writeHead(status, { 'seriatim-accept-items': String(items) }).end();
    };
    // An operator wants to see whether somebody is there.
    if (request.headers['seriatim-test'] !== undefined) return answer(204);
    const all = request.headers['content-type'] === MANY
      ? readMany(request.headers, body, takesPart)
      : [read(request.headers, body, takesPart)];
    for (const [index, { item, place }] of all.entries()) {
      // Also for the error that this one may end with: those before it are applied.
      if (all.length > 1) response.setHeader('seriatim-applied', String(index));
      const verdict = await turns.take(`${place.stream} ${item.group}`, async () => {
        // It hung up while another attempt was in hand; it will come again.
        if (response.destroyed) return undefined;
        return store.transaction(async (tx) => {
          const verdict = await store.claim(tx, place);
          if (verdict === 'apply') await handler(item, tx);
          return verdict;
        });
      });
      if (verdict !== undefined && verdict !== 'apply') onVerdict?.(verdict, place);
      if (verdict === 'stale') return answer(409);
    }
    if (all.length > 1) response.setHeader('seriatim-applied', String(all.length));
    answer(204);
  };
  return new Service({ concurrency: 1_000, maxBody: MAX_BODY, onError: report, ...rest }, serve);
}

/** Several items in one request: what `/v1/outputs` has a line of each. */
const MANY = 'application/vnd.seriatim.items+json';

function unsigned(): PermanentError {
  return new PermanentError('no secret of this receiver has signed this, or not now', {
    code: 'bad-signature',
    status: 401,
  });
}

function read(
  headers: IncomingHttpHeaders,
  body: Buffer,
  takesPart: (replay: string) => boolean,
): { item: Item; place: Place } {
  const text = (name: string): string => {
    const value = headers[name];
    if (typeof value === 'string') return value;
    // A record that a stranger has put into the topic has no place in the order.
    throw new PermanentError(`${name} is missing`, { code: 'not-from-seriatim', status: 400 });
  };
  const number = (name: string): number => {
    const digits = text(name);
    const value = Number(digits);
    if (/^\d+$/.test(digits) && Number.isSafeInteger(value)) return value;
    throw new PermanentError(`${name} is no number that can be kept exactly`, {
      code: 'not-from-seriatim',
      status: 400,
    });
  };
  const [destination, source] = [text('seriatim-destination'), text('seriatim-source').replace(':', '-')];
  const [epoch, sequence, doneBelow] = [
    number('seriatim-epoch'),
    number('seriatim-sequence'),
    number('seriatim-done-below'),
  ];
  const lane = Number(source.split('-')[0]);
  const replay = headers['seriatim-replay'] === undefined ? undefined : text('seriatim-replay');
  const item: Item = {
    id: text('webhook-id'),
    destination,
    lane,
    sequence,
    group: text('seriatim-group'),
    source,
    replay,
    contentType: headers['content-type'],
    headers,
    body,
    text: () => body.toString(),
    json: () => json(body),
  };
  const place = { stream: `${destination}/${lane}`, epoch, sequence, doneBelow };
  return { item, place: replay !== undefined && takesPart(replay) ? { ...place, replay } : place };
}

/** An item of several, as JSON. */
interface Line {
  sequence: number;
  source: { lane: number; offset: number };
  headers: Record<string, string>;
  contentType: string | null;
  body?: unknown;
  bodyBase64?: string;
}

/** Reads each of several items as if it had come alone. */
function readMany(
  common: IncomingHttpHeaders,
  body: Buffer,
  takesPart: (replay: string) => boolean,
): { item: Item; place: Place }[] {
  const destination = String(common['seriatim-destination']);
  // As in the ids of items that come alone.
  const name = destination.replace(/[^A-Za-z0-9_-]/g, (c) => `~${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return json<Line[]>(body).map((line) => {
    const { lane, offset } = line.source;
    const headers = {
      ...common,
      ...line.headers,
      'seriatim-destination': destination,
      'seriatim-epoch': common['seriatim-epoch'],
      'seriatim-source': `${lane}:${offset}`,
      'seriatim-sequence': String(line.sequence),
      'webhook-id': `${lane}-${offset}-${line.headers['seriatim-output']}-${name}`,
      'content-type': line.contentType ?? undefined,
    };
    return read(headers, bytes(line), takesPart);
  });
}

function bytes({ body, bodyBase64, contentType }: Line): Buffer {
  if (bodyBase64 !== undefined) return Buffer.from(bodyBase64, 'base64');
  if (body === null || body === undefined) return Buffer.alloc(0);
  const isText = typeof body === 'string' && !/[/+]json *(;|$)/i.test(contentType ?? '');
  return Buffer.from(isText ? body : JSON.stringify(body));
}

/** Lets those with the same name go one after the other, in the order in which they came. */
class Turns {
  readonly #last = new Map<string, Promise<unknown>>();

  async take<T>(name: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.#last.get(name) ?? Promise.resolve()).then(work);
    const over = turn.catch(() => {});
    this.#last.set(name, over);
    try {
      return await turn;
    } finally {
      if (this.#last.get(name) === over) this.#last.delete(name);
    }
  }
}
