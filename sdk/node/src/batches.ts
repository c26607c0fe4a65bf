/** Staggered batches: `/v1/batches`. */
import { randomUUID } from 'node:crypto';
import { SeriatimError } from './errors.js';
import { type Http, type Request, ndjson } from './http.js';
import { Backoff, pause } from './retry.js';

/** How a batch is to run. Durations are texts such as `"30s"`. */
export interface BatchRules {
  /** 1 to 128 letters, digits, `.`, `_` and `-`; made up unless set. Names the batch for good. */
  id?: string;
  /** `window`: at most `window` items unfinished; `barrier`: the next ones when these are done; `paced`: so many an `interval`. */
  mode?: 'window' | 'barrier' | 'paced';
  window?: number;
  interval?: string;
  /** Whether its items leave in their order among themselves. */
  ordered?: boolean;
  onItemFailure?: 'continue' | 'stop' | 'hold';
  toleratedFailureCount?: number;
  toleratedFailurePercentage?: number;
  itemTimeout?: string;
  deadline?: string;
  /** Asks for a final work item, which this is. */
  completion?: unknown;
}

/** A request for a batch: `count` times the template, or these items. */
export type BatchRequest = BatchRules & ({ count: number; template?: unknown } | { items: unknown[] });

/** A batch as it is. Times are texts as in ISO 8601. */
export interface Batch {
  id: string;
  status:
    'accepted' | 'running' | 'paused' | 'cancelling' | 'failing' | 'completing' | 'completed' | 'failed' | 'cancelled';
  counts?: Record<
    'total' | 'generated' | 'pending' | 'running' | 'succeeded' | 'failed' | 'timedOut' | 'discarded' | 'cancelled',
    number
  >;
  startedAt?: string;
  lastProgressAt?: string;
  endedAt?: string | null;
  eta?: string | null;
  /** Items that wait for an operator. */
  blockedBy?: number[];
  /** In the answer to a retry or discard that the owner has executed: to how many items it applied. */
  applied?: number;
  [member: string]: unknown;
}

/** How an item of a batch has ended. */
export interface BatchItem {
  index: number;
  round: number;
  status: string;
  [member: string]: unknown;
}

/** Batches of a client. Calls are retried like {@link Client.send}, for `giveUpAfter`. */
export interface Batches {
  /** Starts a batch. Safe to retry: its id is fixed before the first attempt. */
  submit(request: BatchRequest): Promise<Batch>;
  /**
   * Starts a batch of any number of items, which are read as they are sent. One attempt; what breaks off starts nothing.
   * Give it an `id` to ask what became of it where that is unknown.
   */
  upload(items: Iterable<unknown> | AsyncIterable<unknown>, rules?: BatchRules): Promise<Batch>;
  status(id: string): Promise<Batch>;
  /** The latest first; 100 unless `limit` says more. */
  list(options?: { status?: Exclude<Batch['status'], 'accepted'>; limit?: number }): Promise<Batch[]>;
  /** The batch now and after each change, until it has ended. Asks every `interval` milliseconds (1,000). */
  watch(id: string, options?: { interval?: number; signal?: AbortSignal }): AsyncGenerator<Batch>;
  /** How its items ended, in their order; with what came of them where `bodies` is set. */
  items(
    id: string,
    options?: { from?: number; limit?: number; status?: string; bodies?: boolean },
  ): AsyncGenerator<BatchItem>;
  cancel(id: string, reason?: string): Promise<Batch>;
  pause(id: string): Promise<Batch>;
  resume(id: string): Promise<Batch>;
  /** Has held items done again: these, or all. */
  retry(id: string, items?: number[]): Promise<Batch>;
  /** Gives held items up: these, or all. */
  discard(id: string, items?: number[]): Promise<Batch>;
  /** Runs it otherwise from now on. */
  change(
    id: string,
    rules: Pick<
      BatchRules,
      'window' | 'interval' | 'onItemFailure' | 'toleratedFailureCount' | 'toleratedFailurePercentage'
    >,
  ): Promise<Batch>;
}

/** How often a batch is asked for while it is watched. */
const WATCH_MS = 1_000;

export function createBatches(http: Http, giveUpAfter: number): Batches {
  const call = <T>(path: string, request: Request = {}) => persistently<T>(http, giveUpAfter, path, request);
  const verb = (id: string, name: string, body: object) => call<Batch>(`${at(id)}/${name}`, json('POST', body));
  const status = (id: string) => call<Batch>(at(id));
  return {
    submit: (request) => submit(http, giveUpAfter, { ...request, id: request.id ?? made() }),
    upload: (items, rules = {}) => upload(http, giveUpAfter, items, { ...rules, id: rules.id ?? made() }),
    status,
    list: async (options = {}) => (await call<{ batches: Batch[] }>(`v1/batches${query(options)}`)).batches,
    watch: (id, options = {}) => watch(() => status(id), options),
    items: (id, options = {}) => ndjson<BatchItem>(http, `${at(id)}/items${query(options)}`),
    cancel: (id, reason) => verb(id, 'cancel', reason === undefined ? {} : { reason }),
    pause: (id) => verb(id, 'pause', {}),
    resume: (id) => verb(id, 'resume', {}),
    retry: (id, items) => verb(id, 'retry', items ? { items } : {}),
    discard: (id, items) => verb(id, 'discard', items ? { items } : {}),
    change: (id, rules) => call<Batch>(at(id), json('PATCH', rules)),
  };
}

const made = () => `batch-${randomUUID()}`;
const at = (id: string) => `v1/batches/${encodeURIComponent(id)}`;

function json(method: string, body: object): Request {
  return { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

function query(members: object): string {
  const given = Object.entries(members).filter(([, value]) => value !== undefined);
  // Texts as they are; numbers, truth values and objects as JSON.
  const texts = given.map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]);
  return texts.length > 0 ? `?${new URLSearchParams(texts as [string, string][])}` : '';
}

/** A call that may be made again: until it has a final answer, or for so many milliseconds. */
async function persistently<T>(http: Http, giveUpAfter: number, path: string, request: Request): Promise<T> {
  const backoff = new Backoff();
  const until = Date.now() + giveUpAfter;
  for (let inDoubt = false; ;) {
    try {
      return JSON.parse((await http.exchange(path, request)).text) as T;
    } catch (error) {
      if (!(error instanceof SeriatimError)) throw error;
      inDoubt ||= error.outcome === 'unknown';
      const wait = backoff.next(error.retryAfter);
      if (!error.retryable || Date.now() + wait > until) throw inDoubt ? error.inDoubt() : error;
      await pause(wait);
    }
  }
}

async function submit(http: Http, giveUpAfter: number, request: BatchRequest & { id: string }): Promise<Batch> {
  try {
    return await persistently<Batch>(http, giveUpAfter, 'v1/batches', json('POST', request));
  } catch (error) {
    return existing(http, giveUpAfter, request.id, error);
  }
}

/** After an attempt whose outcome is unknown, a batch of that id is the one that it has started. */
async function existing(http: Http, giveUpAfter: number, id: string, error: unknown): Promise<Batch> {
  if (!(error instanceof SeriatimError) || error.outcome !== 'unknown') throw error;
  return persistently<Batch>(http, giveUpAfter, at(id), {}).catch(() => {
    throw error;
  });
}

/** Items are gathered to pieces of so many bytes: each piece costs as much as a write. */
const PIECE_BYTES = 64 * 1024;

async function upload(
  http: Http,
  giveUpAfter: number,
  items: Iterable<unknown> | AsyncIterable<unknown>,
  rules: BatchRules & { id: string },
): Promise<Batch> {
  // A cut-off list must not pass for a short one.
  const expect = Array.isArray(items) ? { expect: items.length } : {};
  const request = { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: lines(items) };
  try {
    const response = await http.open(`v1/batches${query({ ...rules, ...expect })}`, { ...request, signal: NEVER });
    return (await response.json()) as Batch;
  } catch (error) {
    return existing(http, giveUpAfter, rules.id, error);
  }
}

/** An upload takes as long as its items take to come. */
const NEVER = new AbortController().signal;

function lines(items: Iterable<unknown> | AsyncIterable<unknown>): ReadableStream<Uint8Array> {
  async function* pieces() {
    let text = '';
    for await (const item of items) {
      const line = JSON.stringify(item) as string | undefined;
      if (line === undefined) throw new TypeError(`${typeof item} is no item: it is no JSON`);
      text += `${line}\n`;
      if (text.length >= PIECE_BYTES) {
        yield Buffer.from(text);
        text = '';
      }
    }
    yield Buffer.from(text);
  }
  return ReadableStream.from(pieces());
}

async function* watch(
  status: () => Promise<Batch>,
  { interval = WATCH_MS, signal }: { interval?: number; signal?: AbortSignal },
): AsyncGenerator<Batch> {
  for (let last = ''; !signal?.aborted;) {
    const batch = await status();
    const { eta: _, ...rest } = batch;
    // The estimate moves with the clock and is no news by itself.
    const now = JSON.stringify(rest);
    if (now !== last) yield batch;
    if (batch.endedAt) return;
    last = now;
    await pause(interval, signal).catch(() => {});
  }
}
