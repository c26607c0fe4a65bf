/** Signatures of Standard Webhooks: `v1`, HMAC-SHA256 over `id.timestamp.body`. */
import { createHmac, timingSafeEqual } from 'node:crypto';

/** The key that a secret stands for; throws a `TypeError` that does not show it. */
function keyOf(secret: string): Buffer {
  const encoded = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(secret.trim())?.[1];
  const key = Buffer.from(encoded ?? '', 'base64');
  if (key.length < 24 || key.length > 64) throw new TypeError('a secret is whsec_ and the base64 of 24 to 64 bytes');
  return key;
}

/** One signature, as it stands in `webhook-signature`. */
export function sign(secret: string, id: string, timestamp: number | string, body: Uint8Array): string {
  return `v1,${mac(keyOf(secret), id, timestamp, body).toString('base64')}`;
}

function mac(key: Buffer, id: string, timestamp: number | string, body: Uint8Array): Buffer {
  return createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest();
}

/**
 * Whether one of the secrets has signed this body, no more than `tolerance` seconds from `now`
 * (seconds of Unix time). Several secrets are for the time in which they are changed. Throws a
 * `TypeError` for what is no secret.
 */
export function verify(
  secrets: string[],
  headers: Record<string, string | string[] | undefined>,
  body: Uint8Array,
  tolerance = 300,
  now = Date.now() / 1000,
): boolean {
  const keys = secrets.map(keyOf);
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures } = headers;
  if (typeof id !== 'string' || typeof timestamp !== 'string' || typeof signatures !== 'string') return false;
  if (!/^\d+$/.test(timestamp) || Math.abs(now - Number(timestamp)) > tolerance) return false;
  const given = signatures.split(' ').filter((entry) => entry.startsWith('v1,'));
  const bytes = given.map((entry) => Buffer.from(entry.slice(3), 'base64'));
  // Each against each, so that the time taken says nothing of which fits.
  let fits = false;
  for (const key of keys) {
    const expected = mac(key, id, timestamp, body);
    for (const one of bytes) fits = (one.length === expected.length && timingSafeEqual(one, expected)) || fits;
  }
  return fits;
}
