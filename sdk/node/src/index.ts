/**
 * Seriatim from Node.js: send in order, work in parallel, receive exactly once.
 *
 * - {@link createClient}: `send` in call order, `sendBatch`, `follow` the ordered outputs, `batches`.
 * - {@link createWorker}: an HTTP worker out of one function.
 * - {@link createReceiver}: a receiver of pushes that applies each item exactly once.
 *
 * @module
 */
export { createClient } from './client.js';
export type { Accepted, Client, ClientOptions, FollowOptions, MessageState, Output, Sent } from './client.js';
export type { Batch, BatchItem, BatchRequest, BatchRules, Batches } from './batches.js';
export type { Body, SendOptions } from './message.js';
export { BatchInterrupted, PermanentError, RetryableError, SeriatimError, UnavailableError } from './errors.js';
export type { Problem } from './errors.js';
export { createWorker, output, outputs } from './worker.js';
export type { OutputOptions, Work, Worker, WorkerOptions } from './worker.js';
export { createReceiver } from './receiver.js';
export type { Item, Receiver, ReceiverOptions } from './receiver.js';
export { sign, verify } from './signature.js';
export type { Place, Store, Verdict } from './store.js';
export { MemoryStore } from './store.js';
export { FileStore } from './file-store.js';
export type { Entry, FileTransaction } from './file-store.js';
