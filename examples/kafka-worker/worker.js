// A worker that speaks Kafka: takes part in the group that shares out the work topic, and answers
// to the results. It follows docs/kafka-workers.md and needs nothing of Seriatim.
//
//   KAFKA=127.0.0.1:9092 NAME=orders node worker.js

import Kafka from 'kafkajs';

import { work } from './work.js';

const { AssignerProtocol, CompressionTypes, PartitionAssigners, logLevel } = Kafka;
const { KAFKA = '127.0.0.1:9092', NAME = 'seriatim', WORKER = `node-${process.pid}` } = process.env;
const concurrency = Number(process.env.CONCURRENCY ?? 100);

const kafka = new Kafka.Kafka({ clientId: WORKER, brokers: KAFKA.split(','), logLevel: logLevel.WARN });
const producer = kafka.producer({
  idempotent: true,
  maxInFlightRequests: 1,
  // Results go to the partition with the lane's number, whatever their key.
  createPartitioner: () => ({ message }) => message.partition,
});
const consumer = kafka.consumer({
  groupId: `${NAME}.work`,
  // Other members of the group may be written in other languages: all need the same name for it.
  partitionAssigners: [roundrobin],
  sessionTimeout: 6_000,
  heartbeatInterval: 1_500,
  // What was fetched waits for this worker: few records of each partition at a time.
  maxBytesPerPartition: 64 * 1024,
});

let running = 0;
const waiting = [];

await producer.connect();
await consumer.connect();
await consumer.subscribe({ topic: `${NAME}.work`, fromBeginning: true });
await consumer.run({
  autoCommit: false,
  partitionsConsumedConcurrently: 1_000,
  eachBatch,
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await consumer.disconnect();
    await producer.disconnect();
  });
}

// The records of one partition, many at once. Their offsets are committed when all are answered: who
// commits earlier and dies delays what it held until the owner sends it out again.
async function eachBatch({ batch, heartbeat, isRunning, isStale }) {
  const alive = setInterval(() => heartbeat().catch(() => {}), 1_000);
  try {
    const answers = await Promise.all(batch.messages.map((message) => withRoom(() => answer(message))));
    await store(answers.filter((result) => result !== undefined));
    if (isRunning() && !isStale()) {
      const offset = (BigInt(batch.lastOffset()) + 1n).toString();
      await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset }]);
    }
  } finally {
    clearInterval(alive);
  }
}

// What to write to the results for a record of the work topic; nothing for what is none.
async function answer({ value, headers }) {
  const source = headers['seriatim-source']?.toString();
  const [lane, offset] = source?.split(':') ?? [];
  if (offset === undefined) return undefined;
  const result = await outcome(value, headers);
  return {
    partition: Number(lane),
    key: offset,
    value: result.value,
    headers: {
      'seriatim-source': source,
      'seriatim-check': headers['seriatim-check'],
      ...(headers['seriatim-round'] && { 'seriatim-round': headers['seriatim-round'] }),
      'seriatim-worker': WORKER,
      ...result.headers,
    },
  };
}

async function outcome(value, headers) {
  try {
    const output = await work(value, headers);
    if (output === undefined) return { value: null, headers: { 'seriatim-status': 'empty' } };
    return { value: output.body, headers: { 'content-type': output.contentType, 'seriatim-status': 'done' } };
  } catch (error) {
    const detail = JSON.stringify({ code: 'work', detail: String(error.message ?? error) });
    return { value: null, headers: { 'seriatim-status': 'failed', 'seriatim-error': detail } };
  }
}

async function store(messages) {
  if (messages.length === 0) return;
  await producer.send({ topic: `${NAME}.results`, acks: -1, compression: CompressionTypes.None, messages });
}

// At most `concurrency` at once, over all partitions.
async function withRoom(task) {
  while (running >= concurrency) await new Promise((resolve) => waiting.push(resolve));
  running += 1;
  try {
    return await task();
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

// kafkajs has this strategy under a name of its own; in the protocol it is called `roundrobin`.
function roundrobin(config) {
  const strategy = PartitionAssigners.roundRobin(config);
  const protocol = ({ topics }) => ({
    name: 'roundrobin',
    metadata: AssignerProtocol.MemberMetadata.encode({ version: 0, topics, userData: Buffer.alloc(0) }),
  });
  return { ...strategy, name: 'roundrobin', protocol };
}
