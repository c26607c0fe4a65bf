/** What a receiver has applied, and the rules by which an item is applied exactly once. */
import { Ranges } from './ranges.js';

/** Where an item stands, from the headers of its push. */
export interface Place {
  /** Destination and lane: sequence numbers are contiguous within it. */
  stream: string;
  /** Of the sender. Grows with each take-over. */
  epoch: number;
  sequence: number;
  /** Every sequence number below it is done for good. */
  doneBelow: number;
  /** The replay that it is part of, where the receiver takes part in that. */
  replay?: string;
}

/** `apply` it; `repeat`: applied before, acknowledge; `stale`: from a sender that was replaced, refuse. */
export type Verdict = 'apply' | 'repeat' | 'stale';

/**
 * Keeps what was applied. Exactly-once stands on one thing: `claim` is part of the transaction in
 * which the handler applies the item, so that both are kept or neither.
 *
 * For a database: `transaction` begins, runs `work` and commits, or rolls back where it rejects;
 * `claim` reads and writes rows through `tx`, by the rules of {@link Marks} or as the README shows;
 * the handler gets the same `tx`. The receiver never claims two items of one sequence group at
 * once, but those of several groups.
 */
export interface Store<Tx> {
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** Judges an item, and notes it as applied where it says `apply`. */
  claim(tx: Tx, place: Place): Promise<Verdict>;
}

/** The marks of a stream as they are stored. */
export interface StoredMarks {
  epoch: number;
  doneBelow: number;
  applied: [number, number][];
  replays: Record<string, [number, number][]>;
}

/** Replays whose items are remembered. A replay that comes back after so many others is applied again. */
const REPLAYS = 8;

/** What was applied of one stream. */
export class Marks {
  #epoch: number;
  #doneBelow: number;
  #applied: Ranges;
  #replays: Map<string, Ranges>;

  constructor(stored: StoredMarks = { epoch: 0, doneBelow: 0, applied: [], replays: {} }) {
    this.#epoch = stored.epoch;
    this.#doneBelow = stored.doneBelow;
    this.#applied = new Ranges(stored.applied);
    this.#replays = new Map(Object.entries(stored.replays).map(([id, runs]) => [id, new Ranges(runs)]));
  }

  judge({ epoch, sequence, replay }: Place): Verdict {
    if (epoch < this.#epoch) return 'stale';
    if (replay !== undefined) return this.#replays.get(replay)?.has(sequence) ? 'repeat' : 'apply';
    return sequence < this.#doneBelow || this.#applied.has(sequence) ? 'repeat' : 'apply';
  }

  /** Notes an item that was judged `apply` and applied. */
  note({ epoch, sequence, doneBelow, replay }: Place): void {
    this.#epoch = Math.max(this.#epoch, epoch);
    this.#doneBelow = Math.max(this.#doneBelow, doneBelow);
    if (replay === undefined) this.#applied.add(sequence);
    else this.#replayed(replay).add(sequence);
    this.#applied.dropBelow(this.#doneBelow);
  }

  #replayed(id: string): Ranges {
    const known = this.#replays.get(id) ?? new Ranges();
    this.#replays.set(id, known);
    for (const oldest of this.#replays.keys()) if (this.#replays.size > REPLAYS) this.#replays.delete(oldest);
    return known;
  }

  toJSON(): StoredMarks {
    const replays = Object.fromEntries([...this.#replays].map(([id, ranges]) => [id, ranges.toJSON()]));
    return { epoch: this.#epoch, doneBelow: this.#doneBelow, applied: this.#applied.toJSON(), replays };
  }
}

/** The marks of all streams of a receiver. */
export class AllMarks {
  readonly #streams: Map<string, Marks>;

  constructor(stored: Record<string, StoredMarks> = {}) {
    this.#streams = new Map(Object.entries(stored).map(([stream, marks]) => [stream, new Marks(marks)]));
  }

  judge(place: Place): Verdict {
    return this.#streams.get(place.stream)?.judge(place) ?? 'apply';
  }

  note(place: Place): void {
    const marks = this.#streams.get(place.stream) ?? new Marks();
    this.#streams.set(place.stream, marks);
    marks.note(place);
  }

  toJSON(): Record<string, StoredMarks> {
    return Object.fromEntries([...this.#streams].map(([stream, marks]) => [stream, marks.toJSON()]));
  }
}

/** A store in memory: exactly once for as long as the process lives. */
export class MemoryStore implements Store<Place[]> {
  readonly #marks = new AllMarks();

  async transaction<T>(work: (tx: Place[]) => Promise<T>): Promise<T> {
    const tx: Place[] = [];
    const result = await work(tx);
    for (const place of tx) this.#marks.note(place);
    return result;
  }

  async claim(tx: Place[], place: Place): Promise<Verdict> {
    const verdict = this.#marks.judge(place);
    if (verdict === 'apply') tx.push(place);
    return verdict;
  }
}
