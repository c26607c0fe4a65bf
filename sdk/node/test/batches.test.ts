import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { type Batch, PermanentError, createClient, createWorker } from '@seriatim/sdk';
import { Pipeline, until } from './support.js';

test('batches are started, watched, steered and read from the real program', { timeout: 60_000 }, async (t) => {
  let refuses = true;
  const seen: unknown[] = [];
  const worker = createWorker(
    (work) => {
      const { item } = work.json<{ item: { n?: number; bad?: boolean } }>();
      if (item.bad && refuses) throw new PermanentError('bad item', { code: 'bad-item' });
      seen.push([work.batch?.id, work.batch?.index]);
      return { done: item.n ?? 'template' };
    },
    { onError: () => {} },
  );
  const { port } = await worker.listen();
  t.after(() => worker.close({ timeout: 0 }));
  const pipeline = await Pipeline.start(t, { SERIATIM_WORK__HTTP: `{ url = "http://127.0.0.1:${port}/" }` });
  const { batches } = createClient({ url: pipeline.url });
  const finished = async (id: string): Promise<Batch> => {
    let last: Batch | undefined;
    for await (const batch of batches.watch(id, { interval: 20 })) last = batch;
    assert.ok(last);
    return last;
  };

  const template = await batches.submit({ id: 'template', count: 250, template: { a: 1 } });
  assert.equal(template.id, 'template');
  const ended = await finished('template');
  assert.deepEqual([ended.status, ended.counts?.total, ended.counts?.succeeded], ['completed', 250, 250]);
  await assert.rejects(batches.submit({ id: 'template', count: 1 }), { code: 'batch-exists' });
  await assert.rejects(batches.submit({ count: 0 }), { status: 422 });
  await assert.rejects(batches.status('none'), { code: 'not-found' });

  const listed = await batches.submit({ items: [{ n: 0 }, { n: 1, bad: true }, { n: 2 }], onItemFailure: 'hold' });
  await until(async () => (await batches.status(listed.id)).blockedBy?.length === 1);
  refuses = false;
  await batches.retry(listed.id, [1]);
  assert.equal((await finished(listed.id)).status, 'completed');
  const items = [];
  for await (const item of batches.items(listed.id, { bodies: true }))
    items.push([item.index, item.status, item['body']]);
  assert.deepEqual(
    items,
    [0, 1, 2].map((n) => [n, 'succeeded', { done: n }]),
  );

  async function* many() {
    for (let n = 0; n < 3_000; n++) yield { n };
  }
  const uploaded = await batches.upload(many(), { window: 500 });
  assert.equal((await finished(uploaded.id)).counts?.succeeded, 3_000);
  assert.equal(seen.filter((one) => (one as [string])[0] === uploaded.id).length, 3_000);

  const paused = await batches.submit({ count: 1_000_000, window: 10 });
  await batches.pause(paused.id);
  await until(async () => (await batches.status(paused.id)).status === 'paused');
  await batches.change(paused.id, { window: 20 });
  await batches.resume(paused.id);
  await batches.cancel(paused.id, 'enough');
  assert.equal((await finished(paused.id)).status, 'cancelled');
  await assert.rejects(batches.pause(paused.id), { code: 'batch-ended' });
  const all = await batches.list();
  assert.deepEqual(new Set(all.map(({ id }) => id)), new Set(['template', listed.id, uploaded.id, paused.id]));
  assert.deepEqual(
    (await batches.list({ status: 'cancelled' })).map(({ id }) => id),
    [paused.id],
  );
});

test('a start whose answer is lost is not taken for another batch', async (t) => {
  const started = new Set<string>();
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (request.method === 'GET') {
      const id = request.url?.split('/').at(-1) ?? '';
      return void response
        .writeHead(started.has(id) ? 200 : 404)
        .end(JSON.stringify({ id, status: 'running', code: 'not-found' }));
    }
    const { id } = JSON.parse(Buffer.concat(chunks).toString()) as { id: string };
    if (started.has(id)) return void response.writeHead(409).end('{"code":"batch-exists","retryable":false}');
    started.add(id);
    response.destroy();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => (server.closeAllConnections(), server.close()));
  const { batches } = createClient({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  const batch = await batches.submit({ count: 1 });
  assert.deepEqual([...started], [batch.id]);
  started.add('taken');
  await assert.rejects(batches.submit({ id: 'taken', count: 1 }), { code: 'batch-exists', outcome: 'refused' });
});
