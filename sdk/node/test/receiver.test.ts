import assert from 'node:assert/strict';
import { appendFile, copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import {
  type Entry,
  FileStore,
  type Item,
  PermanentError,
  type Place,
  type ReceiverOptions,
  type Verdict,
  createReceiver,
  sign,
} from '@seriatim/sdk';
import { SECRET, folder, until } from './support.js';

const OTHER = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

interface Push {
  sequence: number;
  epoch?: number;
  doneBelow?: number;
  group?: string;
  body?: string;
  secret?: string;
  headers?: Record<string, string>;
}

/** A receiver, and a way to push to it as the pipeline does. */
async function receiver<Tx>(
  t: TestContext,
  handler: (item: Item, tx: Tx) => unknown,
  options: Partial<ReceiverOptions<Tx>> = {},
) {
  const receiver = createReceiver(handler, { secrets: [SECRET], onError: () => {}, ...options });
  const { port } = await receiver.listen();
  t.after(() => receiver.close({ timeout: 0 }));
  const push = async (
    { sequence, epoch = 1, doneBelow = 0, group = 'g', body = String(sequence), secret = SECRET, headers = {} }: Push,
    signal?: AbortSignal,
  ) => {
    const id = `0-${sequence}-0-default`;
    const timestamp = Math.floor(Date.now() / 1000);
    const answer = await fetch(`http://127.0.0.1:${port}/`, {
      method: 'POST',
      body,
      headers: {
        'webhook-id': id,
        'webhook-timestamp': String(timestamp),
        'webhook-signature': sign(secret, id, timestamp, Buffer.from(body)),
        'seriatim-destination': 'default',
        'seriatim-source': `0:${sequence}`,
        'seriatim-group': group,
        'seriatim-sequence': String(sequence),
        'seriatim-epoch': String(epoch),
        'seriatim-done-below': String(doneBelow),
        ...headers,
      },
      signal: signal ?? null,
    });
    return answer.status;
  };
  return push;
}

test('several items in one request are applied in order, and how far it got is told', async (t) => {
  const applied: string[] = [];
  const receiver = createReceiver(
    (item) => {
      if (item.text() === 'bad') throw new PermanentError('it will never do');
      applied.push(`${item.id} ${item.sequence} ${item.group} ${item.contentType} ${item.text()}`);
    },
    { secrets: 'unsigned', onError: () => {}, items: 7 },
  );
  const { port } = await receiver.listen();
  t.after(() => receiver.close({ timeout: 0 }));
  const push = async (items: object[]) => {
    const answer = await fetch(`http://127.0.0.1:${port}/`, {
      method: 'POST',
      body: JSON.stringify(items),
      headers: {
        'content-type': 'application/vnd.seriatim.items+json',
        'seriatim-destination': 'a.b',
        'seriatim-lane': '2',
        'seriatim-epoch': '5',
        'seriatim-done-below': '0',
      },
    });
    return [answer.status, answer.headers.get('seriatim-applied'), answer.headers.get('seriatim-accept-items')];
  };
  const item = (sequence: number, contentType: string | null, body: unknown) => ({
    lane: 2,
    sequence,
    source: { lane: 2, offset: 70 + sequence },
    key: null,
    headers: { 'seriatim-group': 'g', 'seriatim-output': '0', 'seriatim-epoch': '1' },
    contentType,
    body,
  });
  const [first, second, third] = [item(0, 'application/json', { n: 1 }), item(1, 'text/plain', 'x'), item(2, null, 'bad')];
  assert.deepEqual(await push([first, second]), [204, '2', '7']);
  assert.deepEqual(await push([second, third]), [422, '1', null]);
  assert.deepEqual(await push([first, second]), [204, '2', '7']);
  assert.deepEqual(applied, ['2-70-0-a~2eb 0 g application/json {"n":1}', '2-71-0-a~2eb 1 g text/plain x']);
});

test('a test of an operator is answered, and is no item', async (t) => {
  const push = await receiver(t, () => assert.fail('it is no item'));
  assert.equal(await push({ sequence: 0, headers: { 'seriatim-test': 'true' } }), 204);
});

test('an item is applied once, however often it comes; a replaced sender is refused', async (t) => {
  const applied: number[] = [];
  const verdicts: [Verdict, Place][] = [];
  const push = await receiver(t, (item) => void applied.push(item.sequence), {
    onVerdict: (...verdict) => verdicts.push(verdict),
  });
  assert.equal(await push({ sequence: 0 }), 204);
  assert.equal(await push({ sequence: 0 }), 204);
  assert.equal(await push({ sequence: 1, epoch: 2, doneBelow: 1 }), 204);
  assert.equal(await push({ sequence: 2, epoch: 1, doneBelow: 1 }), 409);
  assert.equal(await push({ sequence: 0, epoch: 2, doneBelow: 1 }), 204);
  assert.deepEqual(applied, [0, 1]);
  assert.deepEqual(
    verdicts.map(([verdict, { sequence }]) => [verdict, sequence]),
    [
      ['repeat', 0],
      ['stale', 2],
      ['repeat', 0],
    ],
  );
});

test('an item that is being applied is not applied a second time beside it', async (t) => {
  let finish = () => {};
  let begun = 0;
  const others: number[] = [];
  const push = await receiver(t, async ({ sequence }) => {
    if (sequence > 0) return void others.push(sequence);
    begun += 1;
    await new Promise<void>((resolve) => (finish = resolve));
  });
  // The sender gives up after its time-out and tries again, while we still work on the first.
  const givenUp = new AbortController();
  const first = assert.rejects(push({ sequence: 0 }, givenUp.signal));
  await until(() => begun === 1);
  givenUp.abort();
  await first;
  const second = push({ sequence: 0 });
  assert.equal(await push({ sequence: 1, group: 'other' }), 204, 'other groups do not wait');
  finish();
  assert.equal(await second, 204);
  assert.deepEqual([begun, others], [1, [1]]);
});

test('what fails is not noted and comes again; what will never do says so', async (t) => {
  let fails: unknown = new Error('not now');
  const applied: number[] = [];
  const push = await receiver(t, ({ sequence }) => {
    if (fails) throw fails;
    applied.push(sequence);
  });
  assert.equal(await push({ sequence: 0 }), 500);
  fails = new PermanentError('never');
  assert.equal(await push({ sequence: 0 }), 422);
  fails = undefined;
  assert.equal(await push({ sequence: 0 }), 204);
  assert.deepEqual(applied, [0]);
});

test('only who knows a secret is heard, and secrets can be changed', async (t) => {
  let secrets = [SECRET];
  let applied = 0;
  const push = await receiver(t, () => void applied++, { secrets: () => secrets });
  assert.equal(await push({ sequence: 0, secret: OTHER }), 401);
  secrets = [OTHER, SECRET];
  assert.equal(await push({ sequence: 0, secret: OTHER }), 204);
  assert.equal(await push({ sequence: 1 }), 204);
  assert.equal(
    await push({ sequence: 2, headers: { 'webhook-timestamp': String(Math.floor(Date.now() / 1000) - 400) } }),
    401,
  );
  assert.equal(await push({ sequence: 2, headers: { 'seriatim-epoch': '9007199254740993' } }), 400);
  assert.equal(await push({ sequence: 2, headers: { 'seriatim-epoch': '0x10' } }), 400);
  assert.equal(await push({ sequence: 2, headers: { 'seriatim-group': '' } }), 204);
  assert.equal(applied, 3);
  assert.throws(() => createReceiver(() => {}, { secrets: [] }), TypeError);
  assert.throws(() => createReceiver(() => {}, { secrets: ['secret'] }), TypeError);
});

test('a replay is skipped, or applied once more by who takes part', async (t) => {
  const applied: [number, string | undefined][] = [];
  const push = await receiver(t, ({ sequence, replay }) => void applied.push([sequence, replay]), {
    replays: ['mine'],
  });
  const replay = (id: string) => push({ sequence: 0, doneBelow: 1, headers: { 'seriatim-replay': id } });
  await push({ sequence: 0 });
  assert.deepEqual([await replay('other'), await replay('mine'), await replay('mine')], [204, 204, 204]);
  assert.deepEqual(applied, [
    [0, undefined],
    [0, 'mine'],
  ]);
});

const claim = (store: FileStore, sequence: number, value?: unknown, more: Partial<Place> = {}): Promise<Verdict> =>
  store.transaction(async (tx) => {
    const verdict = await store.claim(tx, { stream: 's/0', epoch: 1, sequence, doneBelow: 0, ...more });
    if (verdict === 'apply' && value !== undefined) tx.append(value);
    return verdict;
  });

async function values(path: string): Promise<Entry[]> {
  const all = [];
  for await (const entry of FileStore.read(path)) all.push(entry);
  return all;
}

test('a file that a crash has cut off anywhere holds each item whole or not at all', async (t) => {
  const path = join(folder(t), 'applied');
  const store = await FileStore.open(path);
  for (let sequence = 0; sequence < 4; sequence++) await claim(store, sequence, { n: sequence, text: 'ü\n' });
  await store.close();
  const whole = await readFile(path);
  for (let length = 0; length <= whole.length; length++) {
    const cut = `${path}.cut`;
    await writeFile(cut, whole.subarray(0, length));
    const before = (await values(cut)).length;
    const again = await FileStore.open(cut);
    for (let sequence = 0; sequence < 4; sequence++) {
      assert.equal(
        await claim(again, sequence, { n: sequence, text: 'ü\n' }),
        sequence < before ? 'repeat' : 'apply',
        `${length} bytes`,
      );
    }
    await again.close();
    const expected = [0, 1, 2, 3].map((n) => ({ stream: 's/0', sequence: n, value: { n, text: 'ü\n' } }));
    assert.deepEqual(await values(cut), expected);
  }
});

test('damage that no crash leaves is not passed over', async (t) => {
  const path = join(folder(t), 'applied');
  const store = await FileStore.open(path);
  for (let sequence = 0; sequence < 3; sequence++) await claim(store, sequence);
  await store.close();
  const text = await readFile(path, 'utf8');
  await writeFile(path, text.replace('"sequence":1', '"sequence:1'));
  await assert.rejects(FileStore.open(path), /damaged at line 2/);
});

test('nothing is acknowledged once the file is not ours alone', async (t) => {
  const path = join(folder(t), 'applied');
  const store = await FileStore.open(path);
  await claim(store, 0);
  await appendFile(path, 'another process\n');
  await assert.rejects(claim(store, 1), /could not be written/);
  await assert.rejects(claim(store, 2), /could not be written/);
  await store.close();
});

test('a file of marks stays small, and a new process knows what it summed up', async (t) => {
  const path = join(folder(t), 'applied');
  const store = await FileStore.open(path, { compactBytes: 2_000 });
  for (let sequence = 0; sequence < 500; sequence += 10) {
    const some = Array.from({ length: 10 }, (_, n) => claim(store, sequence + n, undefined, { doneBelow: sequence }));
    assert.deepEqual(await Promise.all(some), Array(10).fill('apply'));
  }
  await claim(store, 3, undefined, { epoch: 4, doneBelow: 0, replay: 'r' });
  await until(async () => (await stat(path)).size < 4_000);
  const copy = `${path}.copy`;
  await store.close();
  await copyFile(path, copy);
  const again = await FileStore.open(copy);
  assert.equal(await claim(again, 499, undefined, { epoch: 4 }), 'repeat');
  assert.equal(await claim(again, 500, undefined, { epoch: 3 }), 'stale');
  assert.equal(await claim(again, 3, undefined, { epoch: 4, replay: 'r' }), 'repeat');
  assert.equal(await claim(again, 500, undefined, { epoch: 4 }), 'apply');
  await again.close();
});
