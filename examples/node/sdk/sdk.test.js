// The programs of this folder around the real pipeline, which dies once on the way.
//
//   cargo build && npm ci && node --test
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { FileStore } from '@seriatim/sdk';
import { enrich } from '../worker.js';

const HERE = import.meta.dirname;
const PROGRAM =
  process.env.SERIATIM ?? join(process.env.CARGO_TARGET_DIR ?? join(HERE, '../../../target'), 'debug/seriatim');
const QUAKES = readFileSync(join(HERE, '../earthquakes.ndjson'), 'utf8').trimEnd().split('\n');

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

test(
  'a week of earthquakes is sent, enriched, received once in order, and followed',
  { timeout: 120_000 },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'seriatim-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    const run = (program, args, env = {}) => {
      const child = spawn(program, args, {
        cwd: join(HERE, '../../..'),
        env: { ...process.env, ...env },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      t.after(() => child.kill('SIGKILL'));
      return { child, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
    };
    const node = (file, ...args) => run(process.execPath, [join(HERE, file), ...args.map(String)]);
    const [ingress, admin, workerPort, receiverPort] = [
      await freePort(),
      await freePort(),
      await freePort(),
      await freePort(),
    ];
    const [url, received] = [`http://127.0.0.1:${ingress}`, join(folder, 'received')];
    const push = `{ http = { url = "http://127.0.0.1:${receiverPort}/", secret_file = "examples/node/secret", allow_private = true } }`;
    const start = () =>
      run(PROGRAM, ['run', '--config', join(HERE, '../seriatim.toml')], {
        SERIATIM_LOG__EMBEDDED: join(folder, 'data'),
        SERIATIM_INGRESS__HTTP: `127.0.0.1:${ingress}`,
        SERIATIM_ADMIN__LISTEN: `127.0.0.1:${admin}`,
        SERIATIM_WORK__HTTP: `{ url = "http://127.0.0.1:${workerPort}/" }`,
        SERIATIM_DESTINATIONS__DEFAULT__PUSH: push,
      });
    const worker = node('worker.js', workerPort);
    const receiver = node('receiver.js', receiverPort, received);
    assert.match((await worker.lines.next()).value, /listens/);
    assert.match((await receiver.lines.next()).value, /listens/);

    const first = start();
    const sender = node('send.js', url);
    const follower = node('follow.js', url);
    for (let line = 0; line < QUAKES.length / 2; line++) await follower.lines.next();
    first.child.kill('SIGKILL');
    await once(first.child, 'exit');
    start();
    for (let line = Math.ceil(QUAKES.length / 2); line < QUAKES.length; line++) await follower.lines.next();
    assert.equal((await sender.lines.next()).value, `${QUAKES.length} of ${QUAKES.length} are durable`);

    const values = async () => {
      const all = [];
      for await (const { value } of FileStore.read(received)) all.push(value);
      return all;
    };
    while ((await values()).length < QUAKES.length) await pause(50);
    const expected = await Promise.all(QUAKES.map((line) => enrich(JSON.parse(line))));
    assert.deepEqual(
      await values(),
      expected.map(({ at, mag, region }) => ({ at, mag, region })),
    );
  },
);
