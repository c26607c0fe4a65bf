/**
 * A store in one file, to which lines are only ever appended.
 *
 * A transaction is one line: the marks of what was applied, and the values that the handler has
 * put into it. It is written and synced before the item is acknowledged. So:
 *
 * | The process dies | Then |
 * |---|---|
 * | before or while the line is written | neither mark nor values are there: the item comes again and is applied |
 * | after it | both are there: the item comes again and is acknowledged without being applied |
 *
 * What the handler does elsewhere is not part of the transaction: it happens a second time where the
 * process dies between that and the line. Give the item's `id` to it as a key, or use a database.
 */
import { type FileHandle, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { AllMarks, type Place, type Store, type StoredMarks, type Verdict } from './store.js';

/** What a handler of a receiver with this store gets. */
export interface FileTransaction {
  /** Puts a JSON value into the transaction. */
  append(value: unknown): void;
}

/** A value that a handler has put into the file. */
export interface Entry<T = unknown> {
  stream: string;
  sequence: number;
  value: T;
}

interface Line {
  marks?: Record<string, StoredMarks>;
  claims?: Place[];
  values?: unknown[];
}

class Transaction implements FileTransaction {
  readonly claims: Place[] = [];
  readonly values: unknown[] = [];

  append(value: unknown): void {
    if (value === undefined) throw new TypeError('undefined is no JSON');
    this.values.push(value);
  }
}

interface Pending {
  line: string;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** A file without values is written anew as a summary when it has grown by so many bytes. */
const COMPACT_BYTES = 8 * 1024 * 1024;

/** See the module's documentation. One process at a time. */
export class FileStore implements Store<FileTransaction> {
  readonly #path: string;
  readonly #marks: AllMarks;
  readonly #compactBytes: number;
  #file: FileHandle;
  #size: number;
  #holdsValues: boolean;
  #pending: Pending[] = [];
  #writing: Promise<void> | undefined;
  #broken: Error | undefined;

  private constructor(path: string, file: FileHandle, contents: Contents, compactBytes: number) {
    this.#path = path;
    this.#file = file;
    this.#marks = contents.marks;
    this.#size = contents.size;
    this.#holdsValues = contents.holdsValues;
    this.#compactBytes = compactBytes;
  }

  /** Opens the file, or makes it. A line that a crash has cut off is removed; other damage rejects. */
  static async open(path: string, { compactBytes = COMPACT_BYTES } = {}): Promise<FileStore> {
    const file = await open(path, 'a+');
    try {
      const contents = parse(path, await readFile(path));
      await file.truncate(contents.size);
      await file.datasync();
      await syncFolder(path);
      return new FileStore(path, file, contents, compactBytes);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The values in a file, in the order in which they were applied. */
  static async *read<T>(path: string): AsyncGenerator<Entry<T>> {
    for (const line of lines(path, await readFile(path)).lines) {
      for (const value of line.values ?? []) {
        const [{ stream, sequence } = { stream: '', sequence: 0 }] = line.claims ?? [];
        yield { stream, sequence, value: value as T };
      }
    }
  }

  async transaction<T>(work: (tx: FileTransaction) => Promise<T>): Promise<T> {
    const tx = new Transaction();
    const result = await work(tx);
    if (tx.claims.length === 0) return result;
    const { claims, values } = tx;
    await this.#write(`${JSON.stringify(values.length > 0 ? { claims, values } : { claims })}\n`);
    this.#holdsValues ||= values.length > 0;
    for (const place of claims) this.#marks.note(place);
    return result;
  }

  async claim(tx: FileTransaction, place: Place): Promise<Verdict> {
    const verdict = this.#marks.judge(place);
    if (verdict === 'apply') (tx as Transaction).claims.push(place);
    return verdict;
  }

  /** Waits for what is being written, and closes the file. */
  async close(): Promise<void> {
    while (this.#writing) await this.#writing;
    this.#broken ??= new Error('the store is closed');
    await this.#file.close();
  }

  #write(line: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ line, resolve, reject });
      this.#writing ??= this.#writeAll().finally(() => (this.#writing = undefined));
    });
  }

  /** While one write is being synced the next ones gather. Never rejects. */
  async #writeAll(): Promise<void> {
    for (let batch; (batch = this.#pending.splice(0)).length > 0;) {
      try {
        await this.#append(batch.map(({ line }) => line).join(''));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        // How much of it is in the file is not known until it is opened again.
        this.#broken ??= new Error(`${this.#path} could not be written; restart to read what it holds`, {
          cause: error,
        });
        for (const { reject } of batch) reject(this.#broken);
      }
      // Let those that were resolved note their marks before they are summed up.
      await new Promise(setImmediate);
      await this.#compact();
    }
  }

  async #append(text: string): Promise<void> {
    if (this.#broken) throw this.#broken;
    const { size } = await this.#file.stat();
    if (size !== this.#size) throw new Error('another process writes to it');
    await this.#file.appendFile(text);
    await this.#file.datasync();
    this.#size += Buffer.byteLength(text);
  }

  async #compact(): Promise<void> {
    if (this.#holdsValues || this.#broken || this.#size < this.#compactBytes || this.#pending.length > 0) return;
    const text = `${JSON.stringify({ marks: this.#marks })}\n`;
    if (text.length > this.#compactBytes / 2) return;
    const next = `${this.#path}.next`;
    try {
      const file = await open(next, 'w');
      await file.writeFile(text);
      await file.datasync();
      await file.close();
      await rename(next, this.#path);
      await syncFolder(this.#path);
      await this.#file.close();
      this.#file = await open(this.#path, 'a+');
      this.#size = Buffer.byteLength(text);
    } catch (error) {
      this.#broken = new Error(`${this.#path} could not be written anew`, { cause: error });
    }
  }
}

interface Contents {
  marks: AllMarks;
  size: number;
  holdsValues: boolean;
}

function parse(path: string, bytes: Buffer): Contents {
  const { lines: all, size } = lines(path, bytes);
  let marks = new AllMarks();
  let holdsValues = false;
  for (const line of all) {
    if (line.marks) marks = new AllMarks(line.marks);
    for (const place of line.claims ?? []) marks.note(place);
    holdsValues ||= line.values !== undefined;
  }
  return { marks, size, holdsValues };
}

/** The whole lines, and how many bytes they take: what follows the last line's end was cut off. */
function lines(path: string, bytes: Buffer): { lines: Line[]; size: number } {
  const size = bytes.lastIndexOf('\n') + 1;
  const text = bytes.subarray(0, size).toString();
  const all = text
    .split('\n')
    .slice(0, -1)
    .map((line, index) => {
      try {
        return JSON.parse(line) as Line;
      } catch (cause) {
        throw new Error(`${path} is damaged at line ${index + 1}`, { cause });
      }
    });
  return { lines: all, size };
}

/** Makes a new or renamed file last. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(dirname(path), 'r');
  await folder.sync();
  await folder.close();
}
