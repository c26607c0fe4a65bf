// Sends invoices, or would: takes 5 to 50 ms for each. One in ten fails at the first attempt, which the
// pipeline tries again; number 13 of every hundred has no address, which no attempt will mend.
import { createServer } from 'node:http';

const port = Number(process.argv[2] ?? 9000);
const attempts = new Map();

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function body(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) text += piece;
  return JSON.parse(text);
}

function answer(response, status, value) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
}

createServer(async (request, response) => {
  const order = await body(request);
  await sleep(5 + Math.random() * 45);
  if (order.type === 'WorkAllDone') {
    console.log(`all done: ${order.counts.succeeded} sent, ${order.counts.failed} without an address`);
    return answer(response, 200, { report: order.counts });
  }
  const attempt = (attempts.get(order.index) ?? 0) + 1;
  attempts.set(order.index, attempt);
  if (order.index % 10 === 7 && attempt === 1) return answer(response, 500, { detail: 'the mail server is busy' });
  if (order.index % 100 === 13 && order.round === 0) return answer(response, 422, { detail: 'it has no address' });
  attempts.delete(order.index);
  answer(response, 200, { invoice: order.index + 1, kind: order.item.kind, sent: true });
}).listen(port, '127.0.0.1', () => console.log(`the worker listens on ${port}`));
