/** Reads ordered outputs: once, or as they come. */
import { SeriatimError } from './errors.js';
import { type Http, failure, linked, ndjson, pieces } from './http.js';
import { Backoff, pause } from './retry.js';
import { SseParser } from './sse.js';

/** A line of `GET /v1/outputs`. */
export interface Output<T = unknown> {
  /** `LANE:SEQUENCE`; `after` of {@link FollowOptions} takes it. */
  cursor: string;
  lane: number;
  /** Contiguous within the destination and lane. */
  sequence: number;
  /** The message that it comes from. */
  source: { lane: number; offset: number };
  key: string | null;
  headers: Record<string, string | { base64: string }>;
  contentType: string | null;
  /** JSON as it is, other text as a string; `undefined` where it is neither. */
  body?: T;
  /** What is neither JSON nor text. */
  bodyBase64?: string;
}

export interface FollowOptions {
  /** Which lane; needed where there are several, since each has its own order. */
  lane?: number;
  /** A sequence number, or `end` for what is yet to come. From the beginning unless set. */
  from?: number | 'end';
  /** The `cursor` of the last output that was handled: goes on behind it. */
  after?: string;
  /** Ends it. */
  signal?: AbortSignal;
}

/** Three heart-beats of the server: a stream that is silent for so long is dead. */
const SILENCE_MS = 45_000;

/** The outputs that are there now. */
export async function* read<T>(http: Http, destination: string, options: FollowOptions): AsyncGenerator<Output<T>> {
  for await (const value of ndjson<Bare<T>>(http, path(destination, options), options.signal)) yield output(value);
}

/** The outputs from there on, for ever; comes back by itself when the connection is lost. */
export async function* follow<T>(http: Http, destination: string, options: FollowOptions): AsyncGenerator<Output<T>> {
  const backoff = new Backoff();
  let last = options.after;
  while (!options.signal?.aborted) {
    let hint: number | undefined;
    const controller = linked(options.signal);
    try {
      const headers = { accept: 'text/event-stream', ...(last === undefined ? {} : { 'last-event-id': last }) };
      const response = await http.open(path(destination, options), { headers, signal: controller.signal });
      const parser = new SseParser();
      for await (const piece of watched(response, controller)) {
        backoff.reset();
        for (const { data } of parser.feed(piece)) {
          const event = output(parse<T>(data));
          // Set before it is handed out: who breaks off and comes again names it.
          last = event.cursor;
          yield event;
        }
      }
    } catch (error) {
      if (options.signal?.aborted) return;
      if (!(error instanceof SeriatimError) || !error.retryable) throw error;
      hint = error.retryAfter;
    } finally {
      controller.abort();
    }
    await pause(backoff.next(hint), options.signal).catch(() => {});
  }
}

/** The body as it comes, for as long as it is not silent. */
async function* watched(response: Response, controller: AbortController): AsyncGenerator<Uint8Array> {
  const body = pieces(response, controller.signal);
  try {
    for (;;) {
      // Runs only while we wait, so that a reader who takes his time is not taken for a dead server.
      const silent = setTimeout(() => controller.abort(lost(`silent for ${SILENCE_MS} ms`)), SILENCE_MS);
      const next = await body.next().finally(() => clearTimeout(silent));
      if (next.done) return;
      yield next.value;
    }
  } catch (error) {
    throw failure(error, controller.signal);
  } finally {
    await body.return(undefined);
  }
}

function lost(message: string): SeriatimError {
  return new SeriatimError(message, { code: 'connection', retryable: true, outcome: 'unknown' });
}

function path(destination: string, { lane, from, after }: FollowOptions): string {
  const query = new URLSearchParams();
  const named = after?.includes(':') ? after.split(':')[0] : undefined;
  if (lane !== undefined || named !== undefined) query.set('lane', String(lane ?? named));
  if (from !== undefined) query.set('from', String(from));
  return `v1/outputs/${encodeURIComponent(destination)}${query.size > 0 ? `?${query}` : ''}`;
}

/** An output as the server writes it. */
type Bare<T> = Omit<Output<T>, 'cursor'>;

function output<T>(bare: Bare<T>): Output<T> {
  return { cursor: `${bare.lane}:${bare.sequence}`, ...bare };
}

function parse<T>(json: string): Bare<T> {
  try {
    return JSON.parse(json) as Bare<T>;
  } catch (cause) {
    throw new SeriatimError('an output is no JSON', {
      code: 'bad-answer',
      retryable: false,
      outcome: 'unknown',
      cause,
    });
  }
}
