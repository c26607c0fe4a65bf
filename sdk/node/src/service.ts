/** What workers and receivers have in common: an HTTP server with limits that closes in order. */
import { setMaxListeners } from 'node:events';
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PermanentError, UnavailableError } from './errors.js';

/** The largest body unless set: Seriatim's `max_body` is 1 MiB, and outputs may be somewhat larger. */
export const MAX_BODY = 2 * 1024 * 1024;

/** Well above the 20 s for which Seriatim keeps an idle connection, so that it is it who closes. */
const KEEP_ALIVE_MS = 60_000;

export interface ServiceOptions {
  /** Requests at once; more are answered 503 with `Retry-After`. */
  concurrency: number;
  /** Bytes of a body; longer ones are answered 413. */
  maxBody: number;
  /** Hears of every error that is answered with 4xx or 5xx, but for overload. */
  onError: (error: unknown, request: IncomingMessage) => void;
}

export type Handler = (request: IncomingMessage, response: ServerResponse, body: Buffer) => Promise<void>;

/** Serves one handler on one port, whatever the path. */
export class Service {
  readonly #options: ServiceOptions;
  readonly #handler: Handler;
  readonly #closing = new AbortController();
  #server: Server | undefined;
  #inFlight = 0;
  #idle: (() => void)[] = [];

  constructor(options: ServiceOptions, handler: Handler) {
    if (!(options.concurrency >= 1)) throw new RangeError('concurrency has to be 1 or more');
    this.#options = options;
    this.#handler = handler;
    // Each request in hand listens to it.
    setMaxListeners(0, this.#closing.signal);
  }

  /** Aborted when the patience of `close` is over. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  /** A listener for a server of your own. */
  readonly listener = (request: IncomingMessage, response: ServerResponse): void => {
    void this.#serve(request, response);
  };

  /** Listens; port 0 takes a free one. Only this machine may call unless `host` says more. */
  async listen(port = 0, host = '127.0.0.1'): Promise<AddressInfo> {
    if (this.#server) throw new Error('it listens already');
    const server = createServer(this.listener);
    server.keepAliveTimeout = KEEP_ALIVE_MS;
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
    return server.address() as AddressInfo;
  }

  /** Takes no more, waits for what is in hand; after `timeout` milliseconds aborts and cuts it off. */
  async close({ timeout = 10_000 } = {}): Promise<void> {
    const server = this.#server;
    const closed = server && new Promise((resolve) => server.close(resolve));
    // Kept-alive connections get this answer's `Connection: close`; those without a request go now.
    server?.closeIdleConnections();
    const late = setTimeout(() => {
      this.#closing.abort(new Error('the service is closing'));
      server?.closeAllConnections();
      this.#wake();
    }, timeout);
    while (this.#inFlight > 0 && !this.signal.aborted) await this.#settled();
    server?.closeIdleConnections();
    await closed;
    clearTimeout(late);
  }

  #settled(): Promise<void> {
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  #wake(): void {
    for (const wake of this.#idle.splice(0)) wake();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#server && !this.#server.listening) response.setHeader('connection', 'close');
    if (this.#inFlight >= this.#options.concurrency) {
      request.resume();
      return answerError(response, new UnavailableError('as many requests as allowed are in hand', { code: 'busy' }));
    }
    this.#inFlight += 1;
    try {
      const body = await readBody(request, this.#options.maxBody);
      await this.#handler(request, response, body);
    } catch (error) {
      // Who has hung up knows, and a handler that stops because of it does what it should.
      const isNews = !(error instanceof UnavailableError) && !request.errored && !response.destroyed;
      if (isNews) this.#options.onError(error, request);
      answerError(response, error);
    } finally {
      this.#inFlight -= 1;
      this.#wake();
    }
  }
}

async function readBody(request: IncomingMessage, max: number): Promise<Buffer> {
  if (request.method !== 'POST') {
    request.resume();
    throw new PermanentError(`${request.method} is not POST`, { code: 'method-not-allowed', status: 405 });
  }
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > max) {
      request.resume();
      throw new PermanentError(`the body has more than ${max} bytes`, { code: 'body-too-large', status: 413 });
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** Answers with what an error means; does nothing where an answer has begun. */
function answerError(response: ServerResponse, error: unknown): void {
  if (response.headersSent || response.destroyed) return;
  const [status, title] = statusOf(error);
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'error';
  const detail = error instanceof Error ? error.message : String(error);
  if (error instanceof UnavailableError) response.setHeader('retry-after', Math.ceil(error.retryAfter));
  if (status === 405) response.setHeader('allow', 'POST');
  const problem = { title, status, detail, code, retryable: !(error instanceof PermanentError) };
  response.writeHead(status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
}

function statusOf(error: unknown): [number, string] {
  if (error instanceof PermanentError) return [error.status, 'This will never do'];
  if (error instanceof UnavailableError) return [503, 'Nobody can do it now'];
  return [500, 'It did not work this time'];
}

/** What Node.js prints where nobody listens to errors. */
export function report(error: unknown, request: IncomingMessage): void {
  console.error(
    `seriatim: ${request.headers['seriatim-id'] ?? request.headers['webhook-id'] ?? 'a request'} failed:`,
    error,
  );
}
