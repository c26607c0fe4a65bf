// The worker of ../worker.js, with the SDK: a limit, deadlines and errors come with it.
//
//   node worker.js [PORT]
import { setTimeout as pause } from 'node:timers/promises';
import { createWorker } from '@seriatim/sdk';
import { delayOf, enrich } from '../worker.js';

const worker = createWorker(async (work) => {
  const quake = work.json();
  await pause(delayOf(quake.id), undefined, { signal: work.signal });
  return enrich(quake);
});

const { port } = await worker.listen(Number(process.argv[2] ?? 9000));
console.log(`worker listens on port ${port}`);
process.once('SIGTERM', () => worker.close());
