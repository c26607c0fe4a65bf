/** All parts together, around the real program, while it and the receiver are killed again and again. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { FileStore, type Output, createClient, createWorker } from '@seriatim/sdk';
import { Pipeline, SECRET, end, folder, freePort, push, until } from './support.js';

const MESSAGES = 1_500;
const KILLS = 3;

test('through kill -9 on both sides each message is applied once and in order', { timeout: 120_000 }, async (t) => {
  const home = folder(t);
  const [secretFile, applied] = [join(home, 'secret'), join(home, 'applied')];
  writeFileSync(secretFile, SECRET);

  const worker = createWorker(async (work) => {
    const { n } = work.json<{ n: number }>();
    await pause((n * 7) % 40);
    return { n, worked: true };
  });
  const workerPort = (await worker.listen()).port;
  t.after(() => worker.close({ timeout: 0 }));

  const receiverPort = await freePort();
  let receiver: ChildProcess | undefined;
  const receive = () => {
    const file = join(import.meta.dirname, 'receiver.child.js');
    receiver = spawn(process.execPath, [file, String(receiverPort), applied, SECRET], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
  };
  receive();
  t.after(() => end(receiver));

  const pipeline = await Pipeline.start(t, {
    SERIATIM_WORK__HTTP: `{ url = "http://127.0.0.1:${workerPort}/" }`,
    SERIATIM_WORK__CONCURRENCY: '100',
    SERIATIM_DESTINATIONS__DEFAULT__PUSH: push(receiverPort, secretFile),
  });

  const client = createClient({ url: pipeline.url });
  const followed: Output<{ n: number }>[] = [];
  const stop = new AbortController();
  const following = (async () => {
    for await (const output of client.follow<{ n: number }>('default', { signal: stop.signal })) followed.push(output);
  })();

  // Never awaited one by one: the order is that of the calls.
  const sending = (async () => {
    const sent = [];
    for (let n = 0; n < MESSAGES; n++) {
      sent.push(client.send({ n }));
      if (n % 10 === 0) await pause(5);
    }
    return Promise.all(sent);
  })();

  const values = async () => {
    const all: number[] = [];
    for await (const { value } of FileStore.read<{ n: number }>(applied)) all.push(value.n);
    return all;
  };

  for (let kill = 1; kill <= KILLS; kill++) {
    await until(() => followed.length >= (MESSAGES * kill) / (KILLS + 1));
    await pipeline.kill();
    await pipeline.start();
  }
  for (let kill = 1; kill <= KILLS; kill++) {
    await until(async () => (await values()).length >= (MESSAGES * kill) / (KILLS + 1));
    await end(receiver);
    receive();
  }
  const sent = await sending;
  await until(() => followed.length >= MESSAGES);
  await until(async () => (await values()).length >= MESSAGES);
  stop.abort();
  await following;

  const expected = Array.from({ length: MESSAGES }, (_, n) => n);
  assert.deepEqual(
    followed.map(({ body }) => body?.n),
    expected,
    'followed once and in order',
  );
  assert.deepEqual(await values(), expected, 'applied once and in order');
  assert.equal(new Set(sent.map(({ id }) => id)).size, MESSAGES, 'each has a place of its own');
});

test(
  'follow goes on behind a cursor, begins at a number or at the end, and tells what it cannot',
  { timeout: 60_000 },
  async (t) => {
    const pipeline = await Pipeline.start(t, {
      SERIATIM_WORK__BUILTIN: 'echo',
      SERIATIM_DESTINATIONS__TEXT__TOPIC: 'sdk.text',
    });
    const client = createClient({ url: pipeline.url });
    const first = async (options: object, count: number) => {
      const all: unknown[] = [];
      for await (const { body, cursor } of client.follow('default', options)) {
        all.push([cursor, body]);
        if (all.length === count) break;
      }
      return all;
    };
    const stop = new AbortController();
    const yet: unknown[] = [];
    let open = () => {};
    const opened = new Promise<void>((resolve) => (open = resolve));
    const fresh = createClient({
      url: pipeline.url,
      fetch: async (...request) => {
        const response = await fetch(...request);
        open();
        return response;
      },
    });
    await client.sendBatch([0, 1, 2]);
    assert.deepEqual(await first({}, 3), [
      ['0:0', 0],
      ['0:1', 1],
      ['0:2', 2],
    ]);
    const end = (async () => {
      for await (const { body } of fresh.follow('default', { from: 'end', signal: stop.signal })) yet.push(body);
    })();
    await opened;
    await client.sendBatch([3, 4]);
    assert.deepEqual(await first({ after: '0:2' }, 2), [
      ['0:3', 3],
      ['0:4', 4],
    ]);
    assert.deepEqual(await first({ from: 1 }, 1), [['0:1', 1]]);
    await until(() => yet.length === 2);
    stop.abort();
    await end;
    assert.deepEqual(yet, [3, 4]);
    await client.send('text', { destination: 'text' });
    for await (const { body, contentType } of client.follow('text')) {
      assert.deepEqual([body, contentType], ['text', 'text/plain; charset=utf-8']);
      break;
    }
    await assert.rejects(first({ lane: 3 }, 1), { code: 'not-found', status: 404 });
    await assert.rejects(client.follow('nowhere').next(), { code: 'unknown-destination' });
  },
);
