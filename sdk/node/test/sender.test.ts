/** The sending queue against a server that does everything wrong that a network can do. */
import assert from 'node:assert/strict';
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { BatchInterrupted, type Sent, SeriatimError, createClient } from '@seriatim/sdk';
import { random } from './support.js';

/** What a request meets. */
type Fault = 'none' | 'busy' | 'limited' | 'lost-answer' | 'lost-request' | 'unknown' | 'in-flight' | 'half';

/** A log that is appended to over HTTP, with duplicates by identity, as Seriatim has it. */
class Model {
  readonly log: { id: string; body: string; key: string | undefined; contentType: string | undefined }[] = [];
  readonly requests: { lines: number; at: number }[] = [];
  fault: () => Fault = () => 'none';
  retryAfter = '0';
  /** Milliseconds before an answer. */
  delay = 0;
  inFlight = 0;
  mostInFlight = 0;

  /** The log without what has an identity that stands before it. */
  get deduplicated(): unknown[] {
    const seen = new Set<string>();
    return this.log.filter(({ id }) => !seen.has(id) && seen.add(id)).map(({ body }) => JSON.parse(body));
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight);
    response.once('close', () => this.inFlight--);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const many = request.headers['content-type'] === 'application/x-ndjson';
    const lines = many ? text.trimEnd().split('\n') : [text];
    this.requests.push({ lines: lines.length, at: Date.now() });
    const fault = this.fault();
    await pause(this.delay);
    if (fault === 'lost-request') return void response.destroy();
    if (fault === 'busy') return this.problem(response, 503, 'overloaded');
    if (fault === 'limited') return this.problem(response, 429, 'quota-exceeded');
    if (fault === 'in-flight') return this.problem(response, 409, 'key-in-flight');
    const identity = String(request.headers['idempotency-key']);
    const kept = fault === 'half' ? Math.ceil(lines.length / 2) : lines.length;
    const results = lines.map((body, index) => {
      if (index >= kept) return { index, status: 503, problem: { code: 'overloaded', retryable: true } };
      if (body.length > 100) return { index, status: 413, problem: { code: 'body-too-large', retryable: false } };
      const id = many ? `${identity}/${index}` : identity;
      const key = request.headers['seriatim-key'] as string | undefined;
      this.log.push({ id, body, key, contentType: request.headers['content-type'] });
      const offset = this.log.length - 1;
      return { index, status: 202, id: `0-${offset}`, lane: 0, offset };
    });
    if (fault === 'lost-answer') return void response.destroy();
    if (fault === 'unknown') return this.problem(response, 504, 'outcome-unknown', { outcome: 'unknown' });
    if (many) response.writeHead(207).end(JSON.stringify({ results }));
    else if (results[0]?.problem) this.problem(response, results[0].status, results[0].problem.code);
    else response.writeHead(202).end(JSON.stringify(results[0]));
  }

  problem(response: ServerResponse, status: number, code: string, more = {}): void {
    const problem = { status, code, detail: code, retryable: status !== 413, ...more };
    response.writeHead(status, { 'retry-after': this.retryAfter }).end(JSON.stringify(problem));
  }
}

async function model(t: TestContext): Promise<{ model: Model; url: string }> {
  const model = new Model();
  const server = createServer(
    (request, response) => void model.serve(request, response).catch(() => response.destroy()),
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => (server.closeAllConnections(), server.close()));
  return { model, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

test('whatever fails, each message is in the log once and in call order', { timeout: 60_000 }, async (t) => {
  const faults: Fault[] = [
    ...Array<Fault>(7).fill('none'),
    'busy',
    'limited',
    'lost-answer',
    'lost-request',
    'unknown',
    'in-flight',
    'half',
  ];
  for (let seed = 1; seed <= 4; seed++) {
    const { model: server, url } = await model(t);
    const below = random(seed);
    server.fault = () => faults[below(faults.length)] ?? 'none';
    const client = createClient({ url });
    const sent: Promise<unknown>[] = [];
    for (let n = 0; n < 60; n++) {
      // A key now and then ends an upload; a pause lets the queue run dry.
      sent.push(client.send({ n }, below(6) === 0 ? { key: `k${below(3)}` } : {}));
      if (below(5) === 0) await Promise.race([...sent.slice(-1), new Promise((resolve) => setTimeout(resolve, 20))]);
    }
    await Promise.all(sent);
    assert.deepEqual(
      server.deduplicated,
      Array.from({ length: 60 }, (_, n) => ({ n })),
      `seed ${seed}`,
    );
    assert.equal(server.mostInFlight, 1, 'a second request could overtake');
  }
});

test('what gathers while a request is on its way shares the next one', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url });
  const accepted = await Promise.all(Array.from({ length: 2_500 }, (_, n) => client.send(n)));
  assert.deepEqual(
    server.requests.map(({ lines }) => lines),
    [1_000, 1_000, 500],
  );
  assert.deepEqual(accepted[2_499], { id: '0-2499', lane: 0, offset: 2_499 });
});

test('what differs in more than its body is sent apart, and as it is', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url });
  await Promise.all([
    client.send({ a: 1 }, { key: 'k' }),
    client.send({ a: 2 }, { key: 'k' }),
    client.send('"text"'),
    client.send(Buffer.from('3')),
    client.send({ a: 4 }, { idempotencyKey: 'mine' }),
    client.send({ a: 5 }, { contentType: 'application/vnd.a+json' }),
  ]);
  assert.deepEqual(
    server.requests.map(({ lines }) => lines),
    [2, 1, 1, 1, 1],
  );
  const types = [
    'application/x-ndjson',
    'application/x-ndjson',
    'text/plain; charset=utf-8',
    'application/octet-stream',
    'application/json',
    'application/vnd.a+json',
  ];
  assert.deepEqual(
    server.log.map(({ contentType }) => contentType),
    types,
  );
  assert.deepEqual(
    server.log.map(({ key }) => key),
    ['k', 'k', undefined, undefined, undefined, undefined],
  );
  assert.equal(server.log[4]?.id, '"mine"');
});

test('a message that is refused for good holds up no other', async (t) => {
  const { url } = await model(t);
  const client = createClient({ url });
  const results = await client.sendBatch([1, 'x'.repeat(200), { long: 'x'.repeat(200) }, 4]);
  const codes = results.map(({ error }) => error?.code);
  assert.deepEqual(codes, [undefined, 'body-too-large', 'body-too-large', undefined]);
  assert.equal(results[1]?.error?.outcome, 'refused');
  assert.equal(results[1]?.error?.retryable, false);
});

test('Retry-After is waited for', async (t) => {
  const { model: server, url } = await model(t);
  server.retryAfter = '1';
  let refusals = 0;
  server.fault = () => (refusals++ === 0 ? 'limited' : 'none');
  await createClient({ url }).send(1);
  const [first, second] = server.requests;
  assert.ok((second?.at ?? 0) - (first?.at ?? 0) >= 990, 'it came again too early');
});

test('what stays unknown takes those behind it with it, and then it goes on', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url, giveUpAfter: 300 });
  server.fault = () => 'lost-answer';
  const sent = await Promise.allSettled([client.send('first'), client.send('second'), client.send('third')]);
  const errors = sent.map((result) => (result.status === 'rejected' ? (result.reason as SeriatimError) : undefined));
  assert.deepEqual(
    errors.map((error) => error?.code),
    ['connection', 'abandoned', 'abandoned'],
  );
  assert.deepEqual(
    errors.map((error) => error?.outcome),
    ['unknown', 'refused', 'refused'],
  );
  assert.ok(
    server.log.every(({ body }) => body === 'first'),
    'nothing that came later was sent',
  );
  server.fault = () => 'none';
  await client.send('fourth');
  assert.equal(server.log.at(-1)?.body, 'fourth');
});

test('an unknown outcome stays unknown, whatever a later attempt is told', async (t) => {
  const { model: server, url } = await model(t);
  let first = true;
  server.fault = () => {
    const fault: Fault = first ? 'lost-answer' : 'busy';
    first = false;
    return fault;
  };
  await assert.rejects(createClient({ url, giveUpAfter: 300 }).send(1), { code: 'overloaded', outcome: 'unknown' });
});

test('an upload ends with the first message that stays unknown, and says how far it came', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url, giveUpAfter: 200, maxQueued: 10 });
  const ends = 25;
  server.fault = () => (server.log.length >= ends ? 'lost-answer' : 'none');
  let read = 0;
  async function* bodies() {
    for (; read < 1_000; read++) yield { n: read };
  }
  const error: unknown = await client.sendBatch(bodies()).catch((error: unknown) => error);
  assert.ok(error instanceof BatchInterrupted);
  const results = error.results as Sent[];
  const accepted = results.filter(({ accepted }) => accepted).length;
  assert.ok(accepted >= 10 && accepted < results.length && results.length < 60, `${accepted} of ${results.length}`);
  assert.ok(
    results.slice(accepted).every(({ error }) => error !== undefined),
    'a prefix was accepted',
  );
  assert.ok(read < 60, `it read on to ${read}`);
});

test('a full queue refuses, and many are read no faster than they are taken', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url, maxQueued: 3 });
  const sent = [1, 2, 3, 4].map((n) => client.send(n));
  await assert.rejects(sent[3] as Promise<unknown>, { code: 'queue-full', retryable: true });
  await Promise.all(sent.slice(0, 3));
  assert.equal(
    (await client.sendBatch(Array.from({ length: 50 }, (_, n) => n))).filter(({ accepted }) => accepted).length,
    50,
  );
  assert.deepEqual(server.deduplicated, [1, 2, 3, ...Array.from({ length: 50 }, (_, n) => n)]);
});

test('with order by key, keys do not wait for one another, and each keeps its order', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url, order: 'key', maxInFlight: 4 });
  server.delay = 5;
  await Promise.all(Array.from({ length: 8 }, (_, n) => client.send({ warm: true, n }, { key: `k${n}` })));
  assert.equal(server.mostInFlight, 4, 'as many as allowed, and no more');
  const below = random(7);
  const faults: Fault[] = ['none', 'none', 'busy', 'lost-answer'];
  server.fault = () => faults[below(faults.length)] ?? 'none';
  const sent = Array.from({ length: 80 }, (_, n) => client.send({ key: n % 8, n }, { key: `k${n % 8}` }));
  await Promise.all(sent);
  for (let key = 0; key < 8; key++) {
    const mine = (server.deduplicated as { key: number; n: number }[]).filter(({ key: of }) => of === key);
    assert.deepEqual(
      mine.map(({ n }) => n),
      Array.from({ length: 10 }, (_, n) => n * 8 + key),
    );
  }
});

test('closing sends what is queued, takes no more, and gives up in the end', async (t) => {
  const { model: server, url } = await model(t);
  const client = createClient({ url });
  const sent = [1, 2, 3].map((n) => client.send(n));
  await client.close();
  assert.deepEqual(server.deduplicated, [1, 2, 3]);
  await Promise.all(sent);
  await assert.rejects(client.send(4), { code: 'closed', outcome: 'refused' });
  const impatient = createClient({ url });
  server.fault = () => 'busy';
  const hopeless = assert.rejects(impatient.send(5), { outcome: 'unknown' });
  await impatient.close({ timeout: 50 });
  await hopeless;
});
