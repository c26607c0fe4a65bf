// Measures staggered batches on a real pipeline, with real processes and real time.
//
//   node scripts/batches.mjs [--kafka SERVERS] [--program FILE] [PART...]
//
// Parts, in this order where none is named:
//   small    20 batches of 50 items, one a second, alone; then beside a batch of 1,000,000, which is cancelled
//   window   10,000 items in a window of 100
//   memory   peak memory of the pipeline's process over batches of 10,000, 100,000 and 1,000,000 items
//   barrier  10,000 items with a barrier every 100: minutes, so only where it is named
//
// 32 workers at once take 18 ms for an item on average (lognormal), and 2 s for one in a hundred, the same
// ones of the small batches in both runs. For `memory` work is nothing and the window 1,000. With --kafka the
// pipeline has topics of its own there, which stay.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const WORKERS = 32;
const WINDOW = 100;
const SMALL = { batches: 20, items: 50 };
const PARTS = ['small', 'window', 'memory'];

const options = { parts: [], program: process.env.SERIATIM ?? join(import.meta.dirname, '../target/release/seriatim') };
for (let at = 2; at < process.argv.length; at++) {
  const word = process.argv[at];
  if (word === '--kafka') options.kafka = process.argv[++at];
  else if (word === '--program') options.program = process.argv[++at];
  else options.parts.push(word);
}

/** A number from 0 to 1 that follows from the words, so that runs can be compared. */
const chance = (...words) => createHash('sha256').update(words.join('|')).digest().readUInt32BE(0) / 2 ** 32;

function workTime({ id, index }) {
  if (chance(id, index, 'straggler') < 0.01) return 2000;
  // Box and Muller: two even draws make a normal one.
  const [a, b] = [1 - chance(id, index, 'a'), chance(id, index, 'b')];
  return 1000 * Math.exp(0.5 * Math.sqrt(-2 * Math.log(a)) * Math.cos(2 * Math.PI * b) - 4.1);
}

async function startWorker() {
  const server = createServer(async (request, response) => {
    const body = [];
    for await (const part of request) body.push(part);
    await sleep(workTime(JSON.parse(Buffer.concat(body))));
    response.writeHead(204).end();
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return server;
}

/** A pipeline of its own; `work` is its section of the configuration. */
class Pipeline {
  static count = 0;

  constructor(work) {
    this.folder = mkdtempSync(join(tmpdir(), 'seriatim-batches-'));
    this.env = {
      ...process.env,
      SERIATIM_NAME: `batches-${process.pid}-${Pipeline.count++}`,
      SERIATIM_INGRESS__HTTP: '127.0.0.1:0',
      SERIATIM_ADMIN__LISTEN: '127.0.0.1:0',
      SERIATIM_BATCH__WINDOW: String(WINDOW),
      ...work,
    };
    if (options.kafka) this.env.SERIATIM_LOG__KAFKA = `{ "bootstrap.servers" = "${options.kafka}" }`;
    else this.env.SERIATIM_LOG__EMBEDDED = join(this.folder, 'data');
  }

  async start() {
    if (options.kafka) {
      const applied = spawnSync(options.program, ['topics', 'apply'], { env: this.env, encoding: 'utf8' });
      if (applied.status !== 0) throw new Error(applied.stderr);
    }
    this.child = spawn(options.program, ['run'], { env: this.env, cwd: this.folder, stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    this.child.stderr.setEncoding('utf8').on('data', (part) => (text += part));
    const port = (name) => text.match(new RegExp(`the ${name} port listens address=(\\S+)`))?.[1];
    while (!port('data') || !port('admin')) {
      if (this.child.exitCode !== null) throw new Error(text);
      await sleep(20);
    }
    this.url = `http://${port('data')}/v1/batches`;
    while (!(await fetch(`http://${port('admin')}/readyz`)).ok) await sleep(50);
    // Whoever owns the lane answers the first batch.
    await this.took('warm-up', { count: 1 });
    return this;
  }

  async submit(id, start) {
    const answer = await fetch(this.url, { method: 'POST', body: JSON.stringify({ id, ...start }) });
    if (answer.status !== 202) throw new Error(await answer.text());
  }

  async status(id) {
    return (await fetch(`${this.url}/${id}`)).json();
  }

  /** Milliseconds from asking for a batch to its end, by the log's clock. */
  async took(id, start) {
    const asked = Date.now();
    await this.submit(id, start);
    return this.ended(id, asked);
  }

  async ended(id, asked) {
    for (;;) {
      const { endedAt } = await this.status(id);
      if (endedAt) return Date.parse(endedAt) - asked;
      await sleep(100);
    }
  }

  peakMiB() {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8');
    return (Number(status.match(/VmHWM:\s+(\d+)/)[1]) / 1024).toFixed(0);
  }

  async end() {
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
    rmSync(this.folder, { recursive: true });
  }
}

async function slow() {
  const server = await startWorker();
  const url = `http://127.0.0.1:${server.address().port}/`;
  const pipeline = new Pipeline({ SERIATIM_WORK__HTTP__URL: url, SERIATIM_WORK__CONCURRENCY: String(WORKERS) });
  await pipeline.start();
  return { pipeline, end: async () => (await pipeline.end(), server.close(), server.closeAllConnections()) };
}

/** Small batches, one a second, with the same draws in each pipeline. */
async function smallOnes(pipeline) {
  const began = Date.now();
  const times = [];
  for (let number = 0; number < SMALL.batches; number++) {
    await sleep(Math.max(0, began + number * 1000 - Date.now()));
    times.push(pipeline.took(`small-${number}`, { count: SMALL.items }));
  }
  const sorted = (await Promise.all(times)).sort((a, b) => a - b);
  const at = (share) => sorted[Math.ceil(share * sorted.length) - 1];
  return { p50: at(0.5), p95: at(0.95), max: sorted.at(-1) };
}

const say = (what, { p50, p95, max }) => console.log(`${what}: p50 ${p50} ms, p95 ${p95} ms, max ${max} ms`);

const parts = {
  async small() {
    // Ids are taken once, and draws follow from them, so each run has a pipeline of its own.
    const first = await slow();
    const alone = await smallOnes(first.pipeline);
    await first.end();
    say('20 batches of 50 alone', alone);
    const { pipeline, end } = await slow();
    await pipeline.submit('huge', { count: 1_000_000 });
    await sleep(2000);
    const beside = await smallOnes(pipeline);
    say('beside a batch of 1,000,000', beside);
    console.log(`p95 beside is ${(beside.p95 / alone.p95).toFixed(2)} times that alone`);
    const answer = await fetch(`${pipeline.url}/huge/cancel`, { method: 'POST' });
    const { counts } = await answer.json();
    const asked = Date.now();
    const drained = await pipeline.ended('huge', asked);
    const done = (await pipeline.status('huge')).counts;
    console.log(`cancelled after ${counts.succeeded}: ${counts.running} of a window of ${WINDOW} left, ended after ` +
      `${drained} ms with ${done.succeeded} done and ${done.cancelled} cancelled`);
    await end();
  },

  async window() {
    const { pipeline, end } = await slow();
    console.log(`10,000 items in a window of ${WINDOW}: ${await pipeline.took('one', { count: 10_000 })} ms`);
    await end();
  },

  async barrier() {
    const { pipeline, end } = await slow();
    const took = await pipeline.took('one', { count: 10_000, mode: 'barrier' });
    console.log(`10,000 items with a barrier every ${WINDOW}: ${took} ms`);
    await end();
  },

  async memory() {
    for (const count of [10_000, 100_000, 1_000_000]) {
      const pipeline = await new Pipeline({ SERIATIM_WORK__BUILTIN: 'echo' }).start();
      const before = pipeline.peakMiB();
      const took = await pipeline.took('one', { count, window: 1000 });
      console.log(`${count} items of no work in ${took} ms: peak memory ${pipeline.peakMiB()} MiB, ${before} before`);
      await pipeline.end();
    }
  },
};

console.log(options.kafka ? `on Kafka at ${options.kafka}` : 'on the embedded log');
for (const part of options.parts.length > 0 ? options.parts : PARTS) {
  await parts[part]();
}
