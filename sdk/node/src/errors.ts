/** A refusal as the server answers it (RFC 9457), with Seriatim's `code` and `retryable`. */
export interface Problem {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  /** Stable: programs may rely on it. */
  code?: string;
  /** Whether the same request may succeed later. */
  retryable?: boolean;
  [member: string]: unknown;
}

/** What a {@link SeriatimError} says beside its message. */
interface Details {
  code: string;
  status?: number | undefined;
  retryable: boolean;
  outcome: 'refused' | 'unknown';
  retryAfter?: number | undefined;
  problem?: Problem | undefined;
  cause?: unknown;
}

/** A call that did not succeed. */
export class SeriatimError extends Error {
  override readonly name: string = 'SeriatimError';
  /**
   * What went wrong: a code of the server such as `body-too-large`, or one of this package:
   * `connection`, `timeout`, `closed`, `queue-full`, `abandoned`, `bad-answer`.
   */
  readonly code: string;
  /** The HTTP status, where there was an answer. */
  readonly status: number | undefined;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** `refused`: certainly not done. `unknown`: perhaps done. */
  readonly outcome: 'refused' | 'unknown';
  /** Milliseconds that the server asked to wait. */
  readonly retryAfter: number | undefined;
  /** What the server said. */
  readonly problem: Problem | undefined;

  constructor(message: string, details: Details) {
    super(message, { cause: details.cause });
    this.code = details.code;
    this.status = details.status;
    this.retryable = details.retryable;
    this.outcome = details.outcome;
    this.retryAfter = details.retryAfter;
    this.problem = details.problem;
  }

  /** The same error where an earlier attempt may have succeeded, whatever became of the last one. */
  inDoubt(): SeriatimError {
    return new SeriatimError(this.message, { ...this, outcome: 'unknown', cause: this.cause });
  }
}

/** An upload that ended before its last message; `results` are those of the messages that were read. */
export class BatchInterrupted<T> extends Error {
  override readonly name = 'BatchInterrupted';
  constructor(
    message: string,
    readonly results: T[],
    cause: unknown,
  ) {
    super(message, { cause });
  }
}

/** What the errors below may say beside their message. */
interface FailureOptions {
  /** For programs; ends up in the problem document. */
  code?: string;
  cause?: unknown;
}

/**
 * Thrown by a handler: this will never do. The message fails at once, and `order.on_failure` (of a
 * worker) or the destination's policy (of a receiver) says what that means.
 */
export class PermanentError extends Error {
  override readonly name = 'PermanentError';
  readonly code: string;
  /** The status of the answer: 422 unless set, a 4xx that is not 408, 409, 410, 425 or 429. */
  readonly status: number;

  constructor(message: string, options: FailureOptions & { status?: number } = {}) {
    super(message, { cause: options.cause });
    this.code = options.code ?? 'permanent';
    this.status = options.status ?? 422;
    if (this.status < 400 || this.status > 499 || [408, 409, 410, 425, 429].includes(this.status)) {
      throw new RangeError(`status ${this.status} does not mean a failure for good`);
    }
  }
}

/** Thrown by a handler: worth another attempt. So is every error that is none of this file's. */
export class RetryableError extends Error {
  override readonly name = 'RetryableError';
  readonly code: string;

  constructor(message: string, options: FailureOptions = {}) {
    super(message, { cause: options.cause });
    this.code = options.code ?? 'retryable';
  }
}

/** Thrown by a handler: nobody can work now, whatever the message. Uses up no attempt. */
export class UnavailableError extends Error {
  override readonly name = 'UnavailableError';
  readonly code: string;
  /** Seconds after which to try again. */
  readonly retryAfter: number;

  constructor(message: string, options: FailureOptions & { retryAfter?: number } = {}) {
    super(message, { cause: options.cause });
    this.code = options.code ?? 'unavailable';
    this.retryAfter = options.retryAfter ?? 1;
  }
}
