import { type Problem, SeriatimError } from './errors.js';
import { retryAfter } from './retry.js';
import { Lines } from './sse.js';

/** Where the server is and how to talk to it. */
export interface HttpOptions {
  url: string | URL;
  token?: string | undefined;
  /** Milliseconds for one request and its answer. */
  timeout: number;
  fetch: typeof fetch;
}

/** An answer with its body. */
export interface Answer {
  status: number;
  headers: Headers;
  text: string;
}

export interface Request {
  method?: string;
  headers?: Record<string, string>;
  body?: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | string;
  signal?: AbortSignal | undefined;
}

/** Statuses that are worth another try where the answer does not say. */
const RETRYABLE = [408, 409, 425, 429, 500, 502, 503, 504];

/** Requests to one server. Errors are {@link SeriatimError}s. */
export class Http {
  readonly #options: HttpOptions;
  readonly #base: URL;

  constructor(options: HttpOptions) {
    this.#options = options;
    this.#base = new URL(options.url);
    if (!this.#base.pathname.endsWith('/')) this.#base.pathname += '/';
  }

  /** One request and its whole answer, within the time-out. Statuses of 400 and more reject. */
  async exchange(path: string, request: Request = {}): Promise<Answer> {
    const controller = new AbortController();
    const late = () => controller.abort(timedOut(this.#options.timeout));
    const timer = setTimeout(late, this.#options.timeout);
    const forward = () => controller.abort(request.signal?.reason);
    request.signal?.addEventListener('abort', forward);
    try {
      request.signal?.throwIfAborted();
      const response = await this.#fetch(path, { ...request, signal: controller.signal });
      const text = await textOf(response, controller.signal);
      if (response.status >= 400) throw refusal(response, text);
      return { status: response.status, headers: response.headers, text };
    } catch (error) {
      throw failure(error, controller.signal);
    } finally {
      clearTimeout(timer);
      request.signal?.removeEventListener('abort', forward);
    }
  }

  /** A response as soon as it begins; its body is the caller's, who ends it by the signal. */
  async open(path: string, request: Request & { signal: AbortSignal }): Promise<Response> {
    try {
      const response = await this.#fetch(path, request);
      if (response.status >= 400) throw refusal(response, await textOf(response, request.signal));
      return response;
    } catch (error) {
      throw failure(error, request.signal);
    }
  }

  #fetch(path: string, { method = 'GET', headers = {}, body, signal }: Request): Promise<Response> {
    const authorization = this.#options.token ? { authorization: `Bearer ${this.#options.token}` } : {};
    return this.#options.fetch(new URL(path, this.#base), {
      method,
      headers: { ...authorization, ...headers },
      // A redirected POST might arrive as a GET, and elsewhere the token is nobody's business.
      redirect: 'error',
      // A body that comes bit by bit has to be read before the answer: Node.js wants that said.
      ...(body === undefined ? {} : { body, duplex: 'half' as const }),
      ...(signal ? { signal } : {}),
    });
  }
}

/** A body as it comes; rejects with the signal's reason once that is aborted. */
export async function* pieces(response: Response, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  // Once there is a response, `fetch` holds the request's signal only weakly: after a garbage
  // collection an abort would not reach the body.
  const cancel = () => void reader.cancel(signal.reason).catch(() => {});
  signal.addEventListener('abort', cancel);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener('abort', cancel);
    await reader.cancel().catch(() => {});
  }
}

/** An answer of a JSON value a line, as it comes. */
export async function* ndjson<T>(http: Http, path: string, signal?: AbortSignal): AsyncGenerator<T> {
  const controller = linked(signal);
  try {
    const response = await http.open(path, { signal: controller.signal });
    const lines = new Lines();
    for await (const piece of pieces(response, controller.signal)) {
      for (const line of lines.feed(piece)) if (line !== '') yield JSON.parse(line) as T;
    }
  } catch (error) {
    throw failure(error, controller.signal);
  } finally {
    controller.abort();
  }
}

/** A controller that is aborted with the signal. */
export function linked(signal: AbortSignal | undefined): AbortController {
  const controller = new AbortController();
  const forward = () => controller.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener('abort', forward, { signal: controller.signal });
  return controller;
}

async function textOf(response: Response, signal: AbortSignal): Promise<string> {
  const all: Uint8Array[] = [];
  for await (const piece of pieces(response, signal)) all.push(piece);
  return Buffer.concat(all).toString();
}

function timedOut(timeout: number): SeriatimError {
  const details = { code: 'timeout', retryable: true, outcome: 'unknown' } as const;
  return new SeriatimError(`no answer within ${timeout} ms`, details);
}

/** An answer that is a refusal. */
function refusal(response: Response, text: string): SeriatimError {
  const problem = parse(text);
  const after = retryAfter(response.headers.get('retry-after'));
  return refused(response.status, problem ?? { detail: text.slice(0, 200) }, after);
}

/** A problem, of a whole request or of one of its messages, as an error. */
export function refused(status: number, problem: Problem, after?: number): SeriatimError {
  // Who stands between us and the server may answer these without knowing what became of it.
  const unknown = problem.code === undefined ? status >= 500 : problem['outcome'] === 'unknown';
  return new SeriatimError(problem.detail ?? problem.title ?? `status ${status}`, {
    code: problem.code ?? `status-${status}`,
    status,
    retryable: problem.retryable ?? RETRYABLE.includes(status),
    outcome: unknown ? 'unknown' : 'refused',
    retryAfter: after,
    problem,
  });
}

/** Everything else that can go wrong on the way. */
export function failure(error: unknown, signal: AbortSignal): unknown {
  if (error instanceof SeriatimError) return error;
  if (signal.aborted) return signal.reason;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const message = cause instanceof Error ? cause.message || String(cause) : String(cause);
  return new SeriatimError(message, { code: 'connection', retryable: true, outcome: 'unknown', cause: error });
}

/** The JSON object that a text is, if it is one. */
function parse(text: string): Problem | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' ? (value as Problem) : undefined;
  } catch {
    return undefined;
  }
}
