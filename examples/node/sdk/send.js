// Sends a week of earthquakes in order, however often the pipeline dies meanwhile.
//
//   node send.js [URL]
import { readFileSync } from 'node:fs';
import { createClient } from '@seriatim/sdk';

const quakes = readFileSync(new URL('../earthquakes.ndjson', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n');
const client = createClient({ url: process.argv[2] ?? 'http://127.0.0.1:8080' });

const results = await client.sendBatch(quakes.map((line) => JSON.parse(line)));
const refused = results.filter(({ error }) => error);
for (const { error } of refused) console.error(error.message);
console.log(`${results.length - refused.length} of ${results.length} are durable`);
