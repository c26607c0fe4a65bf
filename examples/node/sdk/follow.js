// Prints the ordered results as they leave, from the beginning or from behind a cursor.
//
//   node follow.js [URL] [CURSOR]
import { createClient } from '@seriatim/sdk';

const [url = 'http://127.0.0.1:8080', after] = process.argv.slice(2);
const client = createClient({ url });

for await (const { cursor, body } of client.follow('default', after ? { after } : {})) {
  console.log(cursor, body.at, body.mag, body.region);
}
