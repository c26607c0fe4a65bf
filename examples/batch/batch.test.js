// The example as its README has it, with two kill -9 on the way, counted in the end.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';

const target = process.env.CARGO_TARGET_DIR ?? new URL('../../target', import.meta.url).pathname;
const program = process.env.SERIATIM ?? join(target, 'debug', 'seriatim');
const here = (name) => new URL(name, import.meta.url).pathname;

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}

async function verb(env, ...args) {
  const child = spawn(program, args, { env });
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (err += text));
  const [code] = await once(child, 'close');
  return { code, out, err };
}

test('987 work orders are done, each once, through two kills', { timeout: 180_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'seriatim-batch-'));
  const [worker, data, admin] = [await freePort(), await freePort(), await freePort()];
  const env = {
    ...process.env,
    SERIATIM_CONFIG: here('seriatim.toml'),
    SERIATIM_LOG__EMBEDDED: join(folder, 'log'),
    SERIATIM_WORK__HTTP__URL: `http://127.0.0.1:${worker}/`,
    SERIATIM_INGRESS__HTTP: `127.0.0.1:${data}`,
    SERIATIM_ADMIN__LISTEN: `127.0.0.1:${admin}`,
  };
  const working = spawn(process.execPath, [here('worker.js'), String(worker)], { stdio: 'ignore' });
  const start = () => spawn(program, ['run'], { env, stdio: 'ignore' });
  let pipeline = start();
  const until = async (wanted) => {
    for (;;) {
      const { code, out } = await verb(env, 'batch', 'status', 'november', '--json');
      const batch = code === 0 ? JSON.parse(out) : undefined;
      if (batch?.counts && wanted(batch)) return batch;
      await new Promise((done) => setTimeout(done, 20));
    }
  };
  try {
    const submit = ['batch', 'submit', '--count', '987', '--template', '{"kind":"invoice"}', '--id', 'november'];
    const policy = ['--on-item-failure', 'hold', '--completion', '{"report":true}'];
    for (;;) {
      const { code, err } = await verb(env, ...submit, ...policy);
      if (code === 0) break;
      assert.match(err, /nothing answers|still being read/);
      await new Promise((done) => setTimeout(done, 50));
    }
    for (const done of [200, 600]) {
      await until((batch) => batch.counts.succeeded >= done);
      pipeline.kill('SIGKILL');
      await once(pipeline, 'close');
      pipeline = start();
    }
    const blocked = await until((batch) => batch.stalled);
    assert.deepEqual(blocked.blockedBy, [13, 113, 213, 313, 413, 513, 613, 713, 813, 913]);
    assert.equal(blocked.counts.succeeded, 977);
    assert.equal((await verb(env, 'batch', 'retry', 'november')).code, 0);
    const watched = await verb(env, 'batch', 'watch', 'november', '--json');
    assert.equal(watched.code, 0, watched.err);
    const { counts, completion } = JSON.parse(watched.out);
    assert.deepEqual([counts.succeeded, counts.failed, completion], [987, 0, 'succeeded']);
    const tail = await verb(env, 'tail', '--json');
    const bodies = tail.out.trim().split('\n').map((line) => JSON.parse(line).body);
    const invoices = bodies.filter((body) => body.invoice).map((body) => body.invoice);
    assert.deepEqual(invoices.toSorted((a, b) => a - b), Array.from({ length: 987 }, (_, index) => index + 1));
    assert.equal(bodies.at(-1).report.succeeded, 987, 'the final item is the last');
  } finally {
    for (const child of [pipeline, working]) child.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
});
