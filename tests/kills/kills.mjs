// Kills the real program without warning, again and again under load, and then looks for what was
// lost, repeated or out of order: with an independent reader, and with the program's own audit.
//
//   cargo build --release && node tests/kills/kills.mjs [KILLS]
//
// SERIATIM names the program, SEED repeats the same pauses.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const KILLS = Number(process.argv[2] ?? 100);
const PROGRAM = process.env.SERIATIM ?? join(import.meta.dirname, '../../target/release/seriatim');
const SENDERS = 8;

// mulberry32: small, seeded, good enough to scatter moments.
let state = Number(process.env.SEED ?? Date.now()) >>> 0;
console.log(`SEED=${state}`);
function random() {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

const folder = mkdtempSync(join(tmpdir(), 'seriatim-kills-'));
const [data, admin] = [await freePort(), await freePort()];
const env = {
  ...process.env,
  RUST_LOG: 'warn',
  SERIATIM_LOG__EMBEDDED: join(folder, 'data'),
  SERIATIM_INGRESS__HTTP: `127.0.0.1:${data}`,
  SERIATIM_ADMIN__LISTEN: `127.0.0.1:${admin}`,
  SERIATIM_WORK__BUILTIN: '{ sleep = "20ms" }',
};
const start = () => spawn(PROGRAM, ['run'], { cwd: folder, env, stdio: ['ignore', 'inherit', 'inherit'] });

// What was accepted, by id; each sender's own messages in the order in which it sent them.
const accepted = new Map();
let sending = true;
async function sender(number) {
  for (let n = 0; sending; n++) {
    const body = JSON.stringify({ sender: number, n });
    for (;;) {
      const headers = { 'content-type': 'application/json', 'idempotency-key': `${number}-${n}` };
      const answer = await fetch(`http://127.0.0.1:${data}/v1/messages`, { method: 'POST', body, headers }).catch(() => null);
      const json = answer?.status === 202 ? await answer.json().catch(() => null) : null;
      if (json) {
        accepted.set(body, json.id);
        break;
      }
      if (!sending && !answer) break; // Its outcome stays unknown: it may come or not.
      await pause(5);
    }
  }
}

async function outputs() {
  const answer = await fetch(`http://127.0.0.1:${data}/v1/outputs/default`);
  return (await answer.text()).trimEnd().split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

const first = [];
let pipeline = start();
const senders = Array.from({ length: SENDERS }, (_, number) => sender(number));
for (let kill = 0; kill < KILLS; kill++) {
  await pause(30 + random() * 400);
  const dead = once(pipeline, 'exit');
  pipeline.kill('SIGKILL');
  await dead;
  const at = performance.now();
  pipeline = start();
  // Until it has released something in its new life.
  for (;;) {
    const metrics = await fetch(`http://127.0.0.1:${admin}/metrics`).then((r) => r.text()).catch(() => '');
    const released = Number(/seriatim_released_total\{[^}]*\} (\d+)/.exec(metrics)?.[1] ?? 0);
    if (released > 0) break;
    await pause(1);
  }
  first.push(performance.now() - at);
}
sending = false;
await Promise.all(senders);

let seen = [];
const patience = Date.now() + 60_000;
const missing = () => {
  const bodies = new Set(seen.map((output) => JSON.stringify(output.body)));
  return [...accepted.keys()].filter((body) => !bodies.has(body));
};
do {
  await pause(100);
  seen = await outputs();
} while (missing().length > 0 && Date.now() < patience);

assert.deepEqual(missing(), [], 'lost');
const next = new Array(SENDERS).fill(0);
let offset = -1;
seen.forEach(({ sequence, source, body }, index) => {
  assert.equal(sequence, index, 'the sequence has a gap');
  assert.ok(source.offset > offset, `offset ${source.offset} came after ${offset}`);
  offset = source.offset;
  assert.equal(body.n, next[body.sender], `sender ${body.sender}: lost, repeated or out of order`);
  next[body.sender]++;
});
pipeline.kill('SIGTERM');
await once(pipeline, 'exit');
process.stdout.write(execFileSync(PROGRAM, ['verify'], { cwd: folder, env }));
rmSync(folder, { recursive: true, force: true });
first.sort((a, b) => a - b);
const quantile = (share) => first[Math.ceil(share * first.length) - 1].toFixed(0);
console.log(`${KILLS} kills, ${seen.length} messages: none lost, repeated or out of order`);
console.log(`from start to the first release: p50 ${quantile(0.5)} ms, max ${quantile(1)} ms`);
