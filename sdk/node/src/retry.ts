import { setTimeout as wait } from 'node:timers/promises';

/** The first pause; twice as long after each further failure. */
const FIRST_PAUSE_MS = 100;
/** The longest pause of our own choice: a server that is back is noticed within it. */
const LONGEST_PAUSE_MS = 10_000;
/** The most of a server's `Retry-After` that is honoured: a wrong clock must not stop us for ever. */
const LONGEST_HINT_MS = 60 * 60 * 1000;

/** Exponential pauses with jitter, never shorter than what the server asked for. */
export class Backoff {
  #pause = FIRST_PAUSE_MS;

  /** The next pause in milliseconds. */
  next(hint = 0): number {
    // Half of it fixed, so that there is a floor; half at random, so that clients spread.
    const pause = this.#pause * (0.5 + Math.random() / 2);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
    return Math.max(pause, Math.min(hint, LONGEST_HINT_MS));
  }

  /** Begins again with the shortest pause. */
  reset(): void {
    this.#pause = FIRST_PAUSE_MS;
  }
}

/** The milliseconds that a `Retry-After` header names, in seconds or as a date; `undefined` where it is neither. */
export function retryAfter(value: string | null | undefined, now = Date.now()): number | undefined {
  const text = value?.trim() ?? '';
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  // Only the form with a day's name: `Date.parse` would read nearly everything.
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

/** Waits; rejects with the signal's reason when it is aborted. */
export async function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  try {
    await wait(milliseconds, undefined, { signal });
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  }
}
