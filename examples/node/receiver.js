// A receiver: gets the results in order, and applies each exactly once.
//
//   node receiver.js [PORT] [SECRET_FILE]
//
// Seriatim repeats a push when it cannot know whether the last one arrived. `Ledger` turns
// at-least-once into exactly-once with four numbers that come with each push. It keeps them in
// memory here; keep them with what you apply, in one transaction, if this process may crash.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { createServer } from 'node:http';

const TOLERANCE_SECONDS = 300;

// Standard Webhooks: base64 HMAC-SHA256 over `id.timestamp.body`; several while secrets rotate.
export function isSigned(headers, body, secret, now = Date.now() / 1000) {
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures } = headers;
  if (!id || !signatures || Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const expected = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest();
  return signatures.split(' ').some((entry) => {
    const [version, given] = entry.split(',');
    const bytes = Buffer.from(given ?? '', 'base64');
    return version === 'v1' && bytes.length === expected.length && timingSafeEqual(bytes, expected);
  });
}

// What was applied, for each destination and lane.
export class Ledger {
  #states = new Map();

  // 'apply' it, 'repeat' (applied before: acknowledge, do nothing), or 'stale' (from a sender that
  // has been replaced: refuse).
  judge(headers) {
    const [lane] = headers['seriatim-source'].split(/[:-]/);
    const name = `${headers['seriatim-destination']} ${lane}`;
    const state = this.#states.get(name) ?? { epoch: 0, doneBelow: 0, applied: new Set() };
    this.#states.set(name, state);
    const [epoch, sequence, doneBelow] = ['epoch', 'sequence', 'done-below'].map((h) => Number(headers[`seriatim-${h}`]));
    if (epoch < state.epoch) return 'stale';
    state.epoch = epoch;
    if (doneBelow > state.doneBelow) {
      state.doneBelow = doneBelow;
      for (const done of state.applied) if (done < doneBelow) state.applied.delete(done);
    }
    if (sequence < state.doneBelow || state.applied.has(sequence)) return 'repeat';
    state.applied.add(sequence);
    return 'apply';
  }
}

export function createReceiver({ secret, apply, saw = () => {} }) {
  const ledger = new Ledger();
  return createServer(async (request, response) => {
    try {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const body = Buffer.concat(chunks);
      if (!isSigned(request.headers, body, secret)) return response.writeHead(401).end();
      if (request.headers['seriatim-test']) return response.writeHead(204).end(); // An operator knocks.
      const verdict = ledger.judge(request.headers);
      saw(request.headers, verdict);
      if (verdict === 'stale') return response.writeHead(409).end();
      if (verdict === 'apply') apply(JSON.parse(body), request.headers);
      response.writeHead(204).end();
    } catch {
      response.destroy(); // The sender cut off; it will send again.
    }
  });
}

// Not where a test imports it. The path may lead through links.
if (process.argv[1] && import.meta.filename === realpathSync(process.argv[1])) {
  const secret = readFileSync(process.argv[3] ?? new URL('secret', import.meta.url), 'utf8').trim();
  const server = createReceiver({
    secret,
    apply: (quake, headers) => console.log(headers['seriatim-sequence'], quake.at, quake.mag, quake.region),
    saw: (headers, verdict) => verdict !== 'apply' && console.log(headers['seriatim-sequence'], verdict),
  });
  server.listen(Number(process.argv[2] ?? 9100), '127.0.0.1', () => {
    console.log(`receiver listens on port ${server.address().port}`);
  });
}
