/** A message's body: bytes and text as they are, everything else as JSON. */
export type Body = unknown;

/** What may be said about a message. */
export interface SendOptions {
  /** Picks the lane, and the sequence group with `order.by = "key"`. */
  key?: string;
  /** Where its outputs go, unless the worker says. */
  destination?: string | string[];
  /** Of the body; `application/json`, `text/plain` or `application/octet-stream` unless set. */
  contentType?: string;
  /**
   * Makes it safe to send the same again later, in another process: 1 to 255 printable ASCII
   * characters. Without one, only the retries of this call are safe.
   */
  idempotencyKey?: string;
  /** W3C Trace Context. */
  traceparent?: string;
}

/** A message ready to be sent. */
export interface Encoded {
  body: Uint8Array<ArrayBuffer>;
  contentType: string;
  /** What stands in the head of its request beside the content type. */
  headers: Record<string, string>;
  /** The caller's idempotency key. */
  idempotencyKey: string | undefined;
  /** Messages with the same envelope can share an upload; `undefined` cannot. */
  envelope: string | undefined;
}

/** Puts a message together; throws a `TypeError` for what no request can carry. */
export function encode(body: Body, options: SendOptions = {}): Encoded {
  const [bytes, natural, isLine] = bytesOf(body);
  const headers: Record<string, string> = {};
  if (options.key !== undefined) headers['seriatim-key'] = keyHeader(options.key);
  const destinations = [options.destination ?? []].flat();
  if (destinations.length > 0) headers['seriatim-destination'] = destinations.map(checked).join(', ');
  if (options.traceparent !== undefined) headers['traceparent'] = checked(options.traceparent);
  const { idempotencyKey } = options;
  const shared = isLine && idempotencyKey === undefined && (options.contentType ?? natural) === 'application/json';
  return {
    body: bytes,
    contentType: checked(options.contentType ?? natural),
    headers,
    idempotencyKey: idempotencyKey === undefined ? undefined : quoted(idempotencyKey),
    envelope: shared ? JSON.stringify(headers) : undefined,
  };
}

/** The bytes, their natural type, and whether they are one line of JSON. */
function bytesOf(body: Body): [Uint8Array<ArrayBuffer>, string, boolean] {
  if (body instanceof Uint8Array) return [Buffer.from(body), 'application/octet-stream', false];
  if (body instanceof ArrayBuffer) return [new Uint8Array(body.slice(0)), 'application/octet-stream', false];
  if (typeof body === 'string') {
    return [Buffer.from(body), 'text/plain; charset=utf-8', false];
  }
  const json = JSON.stringify(body) as string | undefined;
  if (json === undefined) throw new TypeError(`${typeof body} cannot be sent: it is no JSON`);
  return [Buffer.from(json), 'application/json', true];
}

/** UTF-8 in a header: one character a byte, as HTTP clients write them. */
function keyHeader(key: string): string {
  if (key === '' || key !== key.trim()) throw new TypeError('a key may not be empty, nor begin or end with a blank');
  return checked(Buffer.from(key).toString('latin1'));
}

function checked(value: string): string {
  if (/[\0-\x08\x0a-\x1f\x7f]/.test(value)) throw new TypeError(`${JSON.stringify(value)} holds control characters`);
  return value;
}

/** A structured-field string (RFC 9651), so that any printable character is taken for itself. */
function quoted(key: string): string {
  if (!/^[\x20-\x7e]{1,255}$/.test(key)) {
    throw new TypeError('an idempotency key has 1 to 255 printable ASCII characters');
  }
  return `"${key.replace(/["\\]/g, '\\$&')}"`;
}
