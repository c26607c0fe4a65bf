import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import {
  PermanentError,
  RetryableError,
  UnavailableError,
  type Work,
  type WorkerOptions,
  createClient,
  createWorker,
  output,
  outputs,
} from '@seriatim/sdk';
import { Pipeline, until } from './support.js';

const quiet: WorkerOptions = { onError: () => {} };

/** A worker, and a way to call it as the pipeline does. */
async function worker(t: TestContext, handler: (work: Work) => unknown, options: WorkerOptions = quiet) {
  const worker = createWorker(handler, options);
  const { port } = await worker.listen();
  t.after(() => worker.close({ timeout: 0 }));
  const url = `http://127.0.0.1:${port}/`;
  const call = (body: string = '{}', headers: Record<string, string> = {}, signal?: AbortSignal) =>
    fetch(url, {
      method: 'POST',
      body,
      headers: { 'seriatim-id': '2-7', 'seriatim-lane': '2', 'seriatim-offset': '7', ...headers },
      signal: signal ?? null,
    });
  return { worker, url, call };
}

test('a handler sees the message as the contract has it', async (t) => {
  let seen: Work | undefined;
  const { call } = await worker(t, (work) => void (seen = work));
  const deadline = new Date(Date.now() + 60_000);
  const headers = {
    'seriatim-key': 'schl%C3%BCssel%20100%25',
    'seriatim-attempt': '3',
    'seriatim-deadline': deadline.toISOString(),
    'seriatim-batch': 'a:b:12:1',
    'content-type': 'application/json',
    'x-own': 'o',
  };
  assert.equal((await call('{"a":1}', headers)).status, 204);
  assert.ok(seen);
  const { id, lane, offset, key, attempt, batch, contentType } = seen;
  assert.deepEqual(
    [id, lane, offset, key, attempt, contentType],
    ['2-7', 2, 7, 'schlüssel 100%', 3, 'application/json'],
  );
  assert.deepEqual(batch, { id: 'a:b', index: 12, round: 1 });
  assert.deepEqual(seen.deadline, deadline);
  assert.deepEqual(seen.json(), { a: 1 });
  assert.equal(seen.headers['x-own'], 'o');
});

test('what a handler returns is the output', async (t) => {
  let result: unknown;
  const { call } = await worker(t, () => result);
  const several = 'application/vnd.seriatim.outputs+json';
  const cases: [unknown, number, string | null, string, string | null][] = [
    [undefined, 204, null, '', null],
    [outputs(), 204, null, '', null],
    [null, 200, 'application/json', 'null', null],
    [[1, 2], 200, 'application/json', '[1,2]', null],
    ['text', 200, 'text/plain; charset=utf-8', 'text', null],
    [Buffer.from('bytes'), 200, 'application/octet-stream', 'bytes', null],
    [
      output({ a: 1 }, { destination: ['a', 'b'], contentType: 'application/x+json' }),
      200,
      'application/x+json',
      '{"a":1}',
      'a, b',
    ],
    [output(1, { key: 'k' }), 200, several, '[{"key":"k","body":1}]', null],
    [
      outputs({ a: 1 }, output('t', { destination: 'b' }), Buffer.from([0, 1])),
      200,
      several,
      '[{"body":{"a":1}},{"destination":"b","contentType":"text/plain; charset=utf-8","body":"t"},{"contentType":"application/octet-stream","bodyBase64":"AAE="}]',
      null,
    ],
  ];
  for (const [value, status, type, body, destination] of cases) {
    result = value;
    const answer = await call();
    const got = [
      answer.status,
      answer.headers.get('content-type'),
      await answer.text(),
      answer.headers.get('seriatim-destination'),
    ];
    assert.deepEqual(got, [status, type, body, destination]);
  }
});

test('what a handler throws says what to do', async (t) => {
  let error: unknown;
  const heard: unknown[] = [];
  const { call, url } = await worker(t, (work) => (error === undefined ? work.json() : Promise.reject(error)), {
    onError: (error) => heard.push(error),
    maxBody: 10,
  });
  const cases: [unknown, number, string, boolean][] = [
    [new PermanentError('no such customer', { code: 'no-customer' }), 422, 'no-customer', false],
    [new PermanentError('gone', { status: 404 }), 404, 'permanent', false],
    [new RetryableError('locked'), 500, 'retryable', true],
    [new UnavailableError('database is down', { retryAfter: 7 }), 503, 'unavailable', true],
    [new Error('whatever'), 500, 'error', true],
    ['thrown text', 500, 'error', true],
  ];
  for (const [thrown, status, code, retryable] of cases) {
    error = thrown;
    const answer = await call();
    const problem = (await answer.json()) as Record<string, unknown>;
    assert.deepEqual([answer.status, problem['code'], problem['retryable']], [status, code, retryable]);
    assert.equal(answer.headers.get('content-type'), 'application/problem+json');
    assert.equal(answer.headers.get('retry-after'), status === 503 ? '7' : null);
  }
  assert.equal(heard.length, 5, 'all but the one that is not about the message');
  error = undefined;
  assert.equal((await call('{')).status, 422, 'what is no JSON is none the next time either');
  assert.equal((await call('"0123456789"')).status, 413);
  assert.equal((await fetch(url)).status, 405);
  assert.equal((await fetch(url, { method: 'POST' })).status, 400, 'not from Seriatim');
  assert.throws(() => new PermanentError('x', { status: 503 }), RangeError);
});

test('above its concurrency a worker says that it is busy', async (t) => {
  const waiting: (() => void)[] = [];
  const { call } = await worker(t, () => new Promise<void>((resolve) => waiting.push(resolve)), {
    ...quiet,
    concurrency: 2,
  });
  const taken = [call(), call()];
  await until(() => waiting.length === 2);
  const refused = await call();
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [503, '1']);
  waiting.forEach((finish) => finish());
  assert.deepEqual(
    (await Promise.all(taken)).map(({ status }) => status),
    [204, 204],
  );
  const after = call();
  await until(() => waiting.length === 3);
  waiting[2]?.();
  assert.equal((await after).status, 204);
});

test('the deadline and a hang-up abort the work', async (t) => {
  const reasons: string[] = [];
  const { call } = await worker(t, ({ signal }) => {
    return new Promise<void>((resolve) => {
      signal.addEventListener('abort', () => (reasons.push((signal.reason as Error).message), resolve()));
    });
  });
  assert.equal((await call('', { 'seriatim-deadline': new Date(Date.now() + 30).toISOString() })).status, 204);
  const hangUp = new AbortController();
  const call2 = assert.rejects(call('', {}, hangUp.signal));
  setTimeout(() => hangUp.abort(), 30);
  await call2;
  await until(() => reasons.length === 2);
  assert.deepEqual(reasons, ['the deadline is over', 'the pipeline has hung up']);
});

test('closing finishes what is in hand, and runs out of patience', async (t) => {
  let finish = () => {};
  let began = 0;
  const first = await worker(t, () => (began++, new Promise<string>((resolve) => (finish = () => resolve('done')))));
  const answer = first.call();
  await until(() => began === 1);
  const closed = first.worker.close();
  await assert.rejects(first.call(), 'it takes no more');
  finish();
  assert.equal(await (await answer).text(), 'done');
  await closed;
  let aborted = false;
  const second = await worker(
    t,
    ({ signal }) => (began++, new Promise(() => signal.addEventListener('abort', () => (aborted = true)))),
  );
  const cut = assert.rejects(second.call());
  await until(() => began === 2);
  await second.worker.close({ timeout: 20 });
  await cut;
  assert.equal(aborted, true);
});

test('the real pipeline understands every answer', { timeout: 60_000 }, async (t) => {
  const attempts = new Map<string, number>();
  const { url } = await worker(t, (work) => {
    const attempt = (attempts.get(work.id) ?? 0) + 1;
    attempts.set(work.id, attempt);
    const { what } = work.json<{ what: string }>();
    if (what === 'two')
      return outputs({ part: 1 }, output({ part: 2 }, { destination: 'other', headers: { 'x-part': '2' } }));
    if (what === 'none') return undefined;
    if (what === 'second' && attempt === 1) throw new RetryableError('once more');
    if (what === 'busy' && attempt === 1) throw new UnavailableError('later', { retryAfter: 1 });
    if (what === 'never') throw new PermanentError('no such customer', { code: 'no-customer' });
    return { key: work.key, attempt: work.attempt };
  });
  const pipeline = await Pipeline.start(t, {
    SERIATIM_WORK__HTTP: `{ url = "${url}" }`,
    SERIATIM_WORK__RETRY: '{ attempts = 3, backoff = "10ms", cap = "1s" }',
    SERIATIM_ORDER__ON_FAILURE: 'dead-letter',
    SERIATIM_DESTINATIONS__DEFAULT__TOPIC: 'sdk.output',
    SERIATIM_DESTINATIONS__OTHER__TOPIC: 'sdk.other',
  });
  const client = createClient({ url: pipeline.url });
  const sent = await Promise.all(
    ['two', 'none', 'second', 'busy', 'never', 'one'].map((what) => client.send({ what }, { key: 'ü' })),
  );
  const state = async (at: number) => (await client.message(sent[at]?.id ?? '')).state;
  await until(async () => (await state(5)) === 'released');
  assert.equal(await state(4), 'failed');
  const bodies = [];
  for await (const { body, key } of client.outputs()) bodies.push([key, body]);
  assert.deepEqual(bodies, [
    ['ü', { part: 1 }],
    ['ü', { key: 'ü', attempt: 2 }],
    ['ü', { key: 'ü', attempt: 1 }],
    ['ü', { key: 'ü', attempt: 1 }],
  ]);
  const others = [];
  for await (const { body, headers } of client.outputs('other')) others.push([body, headers['x-part']]);
  assert.deepEqual(others, [[{ part: 2 }, '2']]);
});
