// The example as a whole: a week of earthquakes through the real program, a worker and a receiver
// in Node.js, while the program is killed three times without warning.
//
//   cargo build && node --test examples/node/
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { createReceiver, isSigned, Ledger } from './receiver.js';
import { createWorker, enrich } from './worker.js';

const HERE = import.meta.dirname;
const PROGRAM = process.env.SERIATIM ?? join(process.env.CARGO_TARGET_DIR ?? join(HERE, '../../target'), 'debug/seriatim');
const QUAKES = readFileSync(join(HERE, 'earthquakes.ndjson'), 'utf8').trimEnd().split('\n');
const SECRET = readFileSync(join(HERE, 'secret'), 'utf8').trim();
const KILLS = 3;

async function listen(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

async function freePort() {
  const server = createServer();
  const port = await listen(server);
  server.close();
  await once(server, 'close');
  return port;
}

// Sends one message until it is answered; the idempotency key makes repeats harmless.
async function send(ingress, line) {
  const { id } = JSON.parse(line);
  for (;;) {
    const request = { method: 'POST', body: line, headers: { 'content-type': 'application/json', 'idempotency-key': id } };
    const answer = await fetch(`http://127.0.0.1:${ingress}/v1/messages`, request).catch(() => null);
    const text = await answer?.text().catch(() => null);
    if (answer?.status === 202 && text !== null) return;
    if (answer && ![409, 429, 503, 504].includes(answer.status)) assert.fail(`${answer.status}: ${text}`);
    await pause(20);
  }
}

test('every earthquake arrives once and in order, whatever dies', { timeout: 240_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'seriatim-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const arrivals = [];
  const applied = [];
  const worker = createWorker();
  const receiver = createReceiver({
    secret: SECRET,
    apply: (quake) => applied.push(quake),
    saw: (headers, verdict) => arrivals.push([Number(headers['seriatim-sequence']), verdict]),
  });
  const [workerPort, receiverPort] = [await listen(worker), await listen(receiver)];
  t.after(() => [worker, receiver].forEach((server) => (server.closeAllConnections(), server.close())));
  const [ingress, admin] = [await freePort(), await freePort()];
  const push = `{ http = { url = "http://127.0.0.1:${receiverPort}/", secret_file = "${join(HERE, 'secret')}", allow_private = true } }`;
  const env = {
    ...process.env,
    SERIATIM_LOG__EMBEDDED: join(folder, 'data'),
    SERIATIM_INGRESS__HTTP: `127.0.0.1:${ingress}`,
    SERIATIM_ADMIN__LISTEN: `127.0.0.1:${admin}`,
    SERIATIM_WORK__HTTP: `{ url = "http://127.0.0.1:${workerPort}/" }`,
    SERIATIM_DESTINATIONS__DEFAULT__PUSH: push,
  };
  let pipeline;
  const start = () => {
    pipeline = spawn(PROGRAM, ['run', '--config', join(HERE, 'seriatim.toml')], { env, stdio: ['ignore', 'inherit', 'inherit'] });
  };
  start();
  t.after(() => pipeline.kill('SIGKILL'));

  const sending = (async () => {
    for (const line of QUAKES) await send(ingress, line);
  })();
  for (let kill = 1; kill <= KILLS; kill++) {
    const enough = (QUAKES.length * kill) / (KILLS + 1);
    while (applied.length < enough) await pause(5);
    const dead = once(pipeline, 'exit');
    pipeline.kill('SIGKILL');
    await dead;
    start();
  }
  await sending;
  while (applied.length < QUAKES.length) await pause(20);

  const expected = await Promise.all(QUAKES.map((line) => enrich(JSON.parse(line))));
  assert.deepEqual(applied, expected);
  let last = -1;
  for (const [sequence, verdict] of arrivals) {
    assert.notEqual(verdict, 'stale');
    // The next in order, or once more the one whose acknowledgement was in doubt.
    assert.ok(sequence === last + 1 || sequence === last, `${sequence} came after ${last}`);
    assert.equal(verdict, sequence === last ? 'repeat' : 'apply');
    last = sequence;
  }
  const repeats = arrivals.length - QUAKES.length;
  assert.ok(repeats <= KILLS, `${repeats} repeats after ${KILLS} kills`);
});

test('signatures of others, of other bodies and of long ago are refused', () => {
  const body = Buffer.from('{}');
  const at = 1_700_000_000;
  // Signed with the example's secret by an independent implementation (openssl dgst -mac HMAC).
  const headers = { 'webhook-id': 'a', 'webhook-timestamp': String(at), 'webhook-signature': 'v1,AAAA v1,Uahf70DkgQiYHNhbe4mbx5VAufdaeKVEKnQczudjShc=' };
  assert.equal(isSigned(headers, body, SECRET, at), true);
  assert.equal(isSigned(headers, Buffer.from('[]'), SECRET, at), false);
  assert.equal(isSigned(headers, body, SECRET, at + 301), false);
  assert.equal(isSigned({ ...headers, 'webhook-signature': 'v1,AAAA' }, body, SECRET, at), false);
  assert.equal(isSigned({}, body, SECRET, at), false);
});

test('a repeat is applied once and a replaced sender is refused', () => {
  const ledger = new Ledger();
  const push = (epoch, sequence, doneBelow) =>
    ledger.judge({
      'seriatim-source': '0:7',
      'seriatim-destination': 'default',
      'seriatim-epoch': String(epoch),
      'seriatim-sequence': String(sequence),
      'seriatim-done-below': String(doneBelow),
    });
  assert.equal(push(1, 0, 0), 'apply');
  assert.equal(push(1, 0, 0), 'repeat');
  assert.equal(push(2, 1, 1), 'apply');
  assert.equal(push(1, 2, 1), 'stale');
  assert.equal(push(2, 0, 1), 'repeat');
});
