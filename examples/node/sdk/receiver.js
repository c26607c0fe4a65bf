// The receiver of ../receiver.js, with the SDK: exactly once, through kill -9 of either side.
//
//   node receiver.js [PORT] [FILE]
//
// What `tx.append` is given is written together with the note that the item was applied.
import { readFileSync } from 'node:fs';
import { FileStore, createReceiver } from '@seriatim/sdk';

const secret = readFileSync(new URL('../secret', import.meta.url), 'utf8').trim();
const store = await FileStore.open(process.argv[3] ?? 'quakes-received.ndjson');

const receiver = createReceiver(
  (item, tx) => {
    const { at, mag, region } = item.json();
    tx.append({ at, mag, region });
    console.log(item.sequence, at, mag, region);
  },
  { secrets: [secret], store },
);

const { port } = await receiver.listen(Number(process.argv[2] ?? 9100));
console.log(`receiver listens on port ${port}`);
process.once('SIGTERM', () => receiver.close().then(() => store.close()));
