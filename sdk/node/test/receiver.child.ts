/** A receiver in a process of its own, to be killed: `node receiver.child.js PORT FILE SECRET`. */
import { setTimeout as pause } from 'node:timers/promises';
import { FileStore, createReceiver } from '@seriatim/sdk';

const [port, path, secret] = process.argv.slice(2) as [string, string, string];
const store = await FileStore.open(path);
const receiver = createReceiver(
  async (item, tx) => {
    tx.append({ n: item.json<{ n: number }>().n, begun: Date.now() });
    await pause(1);
  },
  { secrets: [secret], store },
);
await receiver.listen(Number(port));
