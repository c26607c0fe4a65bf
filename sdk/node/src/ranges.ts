/** A set of whole numbers, kept as runs: small where numbers follow one another. */
export class Ranges {
  /** `[first, behind the last]`, ascending, with a gap between any two. */
  readonly #runs: [number, number][];

  constructor(runs: [number, number][] = []) {
    this.#runs = runs.map(([first, behind]) => [first, behind]);
  }

  has(number: number): boolean {
    const at = this.#behind(number);
    const run = this.#runs[at - 1];
    return run !== undefined && number < run[1];
  }

  add(number: number): void {
    if (this.has(number)) return;
    const at = this.#behind(number);
    const [before, after] = [this.#runs[at - 1], this.#runs[at]];
    if (before && before[1] === number) {
      before[1] = after && after[0] === number + 1 ? (this.#runs.splice(at, 1), after[1]) : number + 1;
    } else if (after && after[0] === number + 1) {
      after[0] = number;
    } else {
      this.#runs.splice(at, 0, [number, number + 1]);
    }
  }

  /** Forgets everything below. */
  dropBelow(number: number): void {
    while (this.#runs[0] && this.#runs[0][1] <= number) this.#runs.shift();
    const first = this.#runs[0];
    if (first && first[0] < number) first[0] = number;
  }

  toJSON(): [number, number][] {
    return this.#runs.map(([first, behind]) => [first, behind]);
  }

  /** How many runs begin at or below the number. */
  #behind(number: number): number {
    let [low, high] = [0, this.#runs.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#runs[middle]?.[0] ?? Infinity) <= number) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
