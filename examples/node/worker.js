// A worker: gets each message as an HTTP request, answers with what it makes of it.
//
//   node worker.js [PORT]
//
// Requests come in parallel and are answered as each gets done, in any order at all: putting the
// answers back in order is Seriatim's part. A message may come more than once, for instance after
// a crash; `Seriatim-Id` stays the same.
import { realpathSync } from 'node:fs';
import { createServer } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

export async function enrich(quake) {
  // Gutenberg and Richter, 1956: log10 E = 4.8 + 1.5 M, in joules.
  const joules = quake.mag === null ? null : Number((10 ** (4.8 + 1.5 * quake.mag)).toPrecision(3));
  const region = quake.place.split(', ').at(-1);
  const depthClass = quake.depth < 70 ? 'shallow' : quake.depth < 300 ? 'intermediate' : 'deep';
  return { ...quake, at: new Date(quake.time).toISOString(), region, depthClass, joules };
}

// Most take some milliseconds, some take long: the order in which they end has nothing to do with
// the order in which they came.
export function delayOf(id) {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  return hash % 50 === 0 ? 300 : hash % 40;
}

export function createWorker() {
  return createServer(async (request, response) => {
    try {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const quake = JSON.parse(Buffer.concat(chunks));
      await pause(delayOf(quake.id));
      const body = JSON.stringify(await enrich(quake));
      response.writeHead(200, { 'content-type': 'application/json' }).end(body);
    } catch (error) {
      // 4xx: this message will never do; 5xx: worth another attempt.
      const status = error instanceof SyntaxError ? 422 : 500;
      const problem = { title: 'cannot enrich', status, detail: error.message };
      response.writeHead(status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
    }
  });
}

// Not where a test imports it. The path may lead through links.
if (process.argv[1] && import.meta.filename === realpathSync(process.argv[1])) {
  const server = createWorker();
  server.listen(Number(process.argv[2] ?? 9000), '127.0.0.1', () => {
    console.log(`worker listens on port ${server.address().port}`);
  });
}
