/** What the tests stand on: the real program, free ports, conditions that are waited for. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

const ROOT = join(import.meta.dirname, '../../../..');
const TARGET = process.env['CARGO_TARGET_DIR'] ?? join(ROOT, 'target');
const PROGRAM = process.env['SERIATIM'] ?? join(TARGET, 'debug/seriatim');

/** 32 bytes in base64, as Standard Webhooks wants them. */
export const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=';

/** Numbers that are the same in each run (mulberry32). */
export function random(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Waits until something holds; the test's own time-out ends it where it never does. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await pause(5);
}

/** A folder that goes with the test. */
export function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'seriatim-sdk-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** The real program with all its roles, with a data folder and ports of its own. */
export class Pipeline {
  readonly url: string;
  readonly admin: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #folder: string;
  #process: ChildProcess | undefined;

  private constructor(folder: string, ports: [number, number], config: Record<string, string>) {
    this.url = `http://127.0.0.1:${ports[0]}`;
    this.admin = `http://127.0.0.1:${ports[1]}`;
    this.#folder = folder;
    this.#env = {
      PATH: process.env['PATH'],
      SERIATIM_NAME: 'sdk',
      SERIATIM_LOG__EMBEDDED: join(folder, 'data'),
      SERIATIM_INGRESS__HTTP: `127.0.0.1:${ports[0]}`,
      SERIATIM_ADMIN__LISTEN: `127.0.0.1:${ports[1]}`,
      ...config,
    };
  }

  /** Starts one; `config` in the form of the environment. Ends with the test. */
  static async start(t: TestContext, config: Record<string, string>): Promise<Pipeline> {
    const pipeline = new Pipeline(folder(t), [await freePort(), await freePort()], config);
    await pipeline.start();
    t.after(() => pipeline.kill());
    return pipeline;
  }

  async start(): Promise<void> {
    this.#process = spawn(PROGRAM, ['run'], {
      cwd: this.#folder,
      env: this.#env,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    await until(async () => {
      if (this.#process?.exitCode != null) throw new Error(`${PROGRAM} ended at once`);
      const ready = await fetch(`${this.admin}/readyz`).catch(() => undefined);
      return ready?.ok ?? false;
    });
  }

  /** Without warning, as a crash would. */
  async kill(): Promise<void> {
    await end(this.#process);
  }
}

/** kill -9, and waits for the end. */
export async function end(child: ChildProcess | undefined): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

export const push = (port: number, secretFile: string): string =>
  `{ http = { url = "http://127.0.0.1:${port}/", secret_file = "${secretFile}", allow_private = true } }`;
