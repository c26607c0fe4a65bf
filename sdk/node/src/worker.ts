import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PermanentError } from './errors.js';
import { type Handler, MAX_BODY, Service, type ServiceOptions, report } from './service.js';

/** A message to work on. It may come more than once, even at the same time; `id` stays the same. */
export interface Work {
  /** `LANE-OFFSET`: stable, so good as a key for what must not be done twice. */
  id: string;
  lane: number;
  offset: number;
  key: string | undefined;
  /** From 1. */
  attempt: number;
  /** When the pipeline stops waiting for this attempt. */
  deadline: Date | undefined;
  /** Aborted at the deadline, when the pipeline hangs up, and when `close` runs out of patience. */
  signal: AbortSignal;
  /** Of a batch's item: which of which batch, and which round of it. */
  batch: { id: string; index: number; round: number } | undefined;
  contentType: string | undefined;
  /** All headers of the request, those of the message among them. */
  headers: IncomingHttpHeaders;
  body: Buffer;
  text(): string;
  /** The body as JSON; what is none fails for good. */
  json<T = any>(): T;
}

export interface OutputOptions {
  /** Where it goes; the message's destinations, or `default`, unless set. */
  destination?: string | string[];
  /** The output's key; the message's unless set. */
  key?: string;
  contentType?: string;
  /** Further headers. */
  headers?: Record<string, string>;
}

/** One output with what is to be said about it. */
class Output {
  constructor(
    readonly body: unknown,
    readonly options: OutputOptions,
  ) {}
}

/** Several outputs of one message. */
class Outputs {
  constructor(readonly all: unknown[]) {}
}

/** An output that goes to a destination of its own, has its own key, type or headers. */
export function output(body: unknown, options: OutputOptions = {}): Output {
  return new Output(body, options);
}

/** Several outputs of one message, in this order; none is as good as `undefined`. */
export function outputs(...all: unknown[]): Outputs {
  return new Outputs(all);
}

export interface WorkerOptions extends Partial<ServiceOptions> {}

export interface Worker {
  /** Listens; port 0 takes a free one. Only this machine may call unless `host` says more. */
  listen(port?: number, host?: string): Promise<AddressInfo>;
  /** For a server of your own: `http.createServer(worker.listener)`. */
  readonly listener: (request: IncomingMessage, response: ServerResponse) => void;
  /** Takes no more and finishes what is in hand; after `timeout` milliseconds (10,000) aborts it. */
  close(options?: { timeout?: number }): Promise<void>;
}

/**
 * A worker out of one function.
 *
 * What it returns is the output: `undefined` none; bytes and strings as they are; {@link output}
 * and {@link outputs}; everything else as JSON. What it throws is a failure: {@link PermanentError}
 * for good, {@link UnavailableError} of the worker rather than of the message, all else for another
 * attempt.
 *
 * Above `concurrency` (1,000) requests are answered 503, which tells the pipeline to wait: let its
 * `work.concurrency` be no more than all workers have together.
 */
export function createWorker(handler: (work: Work) => unknown, options: WorkerOptions = {}): Worker {
  const defaults: ServiceOptions = { concurrency: 1_000, maxBody: MAX_BODY, onError: report };
  const serve: Handler = async (request, response, body) => {
    const attempt = new Attempt(request, response, service.signal);
    try {
      const result = await handler(read(request, body, attempt));
      if (!response.destroyed) answer(response, result);
    } finally {
      attempt.end();
    }
  };
  const service = new Service({ ...defaults, ...options }, serve);
  return service;
}

/** Timers take no longer delays. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The signal of one attempt, and what aborts it. */
class Attempt {
  readonly deadline: Date | undefined;
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #closing: AbortSignal;

  constructor(request: IncomingMessage, response: ServerResponse, closing: AbortSignal) {
    const at = Date.parse(header(request, 'deadline') ?? '');
    if (!Number.isNaN(at)) {
      this.deadline = new Date(at);
      const left = Math.min(Math.max(at - Date.now(), 0), LONGEST_TIMER_MS);
      this.#timer = setTimeout(() => this.#controller.abort(new Error('the deadline is over')), left);
    }
    response.once('close', () => {
      if (!response.writableFinished) this.#controller.abort(new Error('the pipeline has hung up'));
    });
    this.#closing = closing;
    closing.addEventListener('abort', this.#close);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#closing.removeEventListener('abort', this.#close);
  }

  readonly #close = (): void => this.#controller.abort(this.#closing.reason);
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[`seriatim-${name}`];
  return typeof value === 'string' ? value : undefined;
}

function read(request: IncomingMessage, body: Buffer, { deadline, signal }: Attempt): Work {
  const [id, lane, offset] = ['id', 'lane', 'offset'].map((name) => header(request, name));
  if (id === undefined || lane === undefined || offset === undefined) {
    throw new PermanentError('this is a worker: only Seriatim calls it', { code: 'not-from-seriatim', status: 400 });
  }
  const key = header(request, 'key');
  return {
    id,
    lane: Number(lane),
    offset: Number(offset),
    key: key === undefined ? undefined : decoded(key),
    attempt: Number(header(request, 'attempt') ?? 1),
    deadline,
    signal,
    batch: batch(header(request, 'batch')),
    contentType: request.headers['content-type'],
    headers: request.headers,
    body,
    text: () => body.toString(),
    json: () => json(body),
  };
}

/** Percent-encoded bytes as text; those that are no UTF-8 as replacement characters. */
function decoded(key: string): string {
  const bytes = key.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
  return Buffer.from(bytes, 'latin1').toString();
}

function batch(value: string | undefined): Work['batch'] {
  const parts = /^(.*):(\d+):(\d+)$/.exec(value ?? '');
  return parts ? { id: parts[1] ?? '', index: Number(parts[2]), round: Number(parts[3]) } : undefined;
}

/** Parses a body; what is no JSON will be none the next time either. */
export function json<T>(body: Buffer): T {
  try {
    return JSON.parse(body.toString()) as T;
  } catch (cause) {
    throw new PermanentError(`the body is no JSON: ${(cause as Error).message}`, { code: 'invalid-json', cause });
  }
}

const OUTPUTS = 'application/vnd.seriatim.outputs+json';

function answer(response: ServerResponse, result: unknown): void {
  const all = result instanceof Outputs ? result.all : [result];
  const [only] = all;
  if (all.length === 0 || (all.length === 1 && only === undefined)) {
    response.writeHead(204).end();
    return;
  }
  const { body, options } = only instanceof Output ? only : new Output(only, {});
  if (all.length > 1 || options.key !== undefined || options.headers !== undefined) {
    response.writeHead(200, { 'content-type': OUTPUTS }).end(JSON.stringify(all.map(entry)));
    return;
  }
  const [bytes, natural] = bytesOf(body);
  const destination = destinations(options);
  response.writeHead(200, {
    'content-type': options.contentType ?? natural,
    ...(destination === undefined ? {} : { 'seriatim-destination': destination }),
  });
  response.end(bytes);
}

/** One of several, as the contract with workers has it. */
function entry(value: unknown): object {
  const { body, options } = value instanceof Output ? value : new Output(value, {});
  const { key, contentType, headers } = options;
  const destination = destinations(options);
  const common = { destination, key, headers };
  if (body instanceof Uint8Array) {
    const bodyBase64 = Buffer.from(body).toString('base64');
    return { ...common, contentType: contentType ?? 'application/octet-stream', bodyBase64 };
  }
  if (body === undefined) throw new TypeError('an output has to have a body; leave it out for none');
  return { ...common, contentType: contentType ?? (typeof body === 'string' ? TEXT : undefined), body };
}

const TEXT = 'text/plain; charset=utf-8';

function destinations({ destination }: OutputOptions): string | undefined {
  return destination === undefined ? undefined : [destination].flat().join(', ');
}

function bytesOf(body: unknown): [Uint8Array | string, string] {
  if (body instanceof Uint8Array) return [body, 'application/octet-stream'];
  if (typeof body === 'string') return [body, TEXT];
  const text = JSON.stringify(body) as string | undefined;
  if (text === undefined) throw new TypeError(`the handler returned a ${typeof body}, which is no output`);
  return [text, 'application/json'];
}
