import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sign, verify } from '@seriatim/sdk';
import { SECRET } from './support.js';

const BODY = Buffer.from('{"test": 2432232314}');
const AT = 1_614_265_330;
const ID = 'msg_p5jXN8AQM9LWM0D4loKWxJek';
/** The vector of the Standard Webhooks specification's reference libraries. */
const KNOWN = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
const SIGNATURE = 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=';

function headers(signature: string, timestamp: number | string = AT) {
  return { 'webhook-id': ID, 'webhook-timestamp': String(timestamp), 'webhook-signature': signature };
}

test('the vector of the reference libraries is signed and verified', () => {
  assert.equal(sign(KNOWN, ID, AT, BODY), SIGNATURE);
  assert.equal(verify([KNOWN], headers(SIGNATURE), BODY, 300, AT), true);
});

test('any of several secrets and any of several signatures will do', () => {
  assert.equal(verify([SECRET, KNOWN], headers(`v1a,x v1,AAAA ${SIGNATURE}`), BODY, 300, AT), true);
  assert.equal(verify([SECRET], headers(SIGNATURE), BODY, 300, AT), false);
});

test('others, other bodies, other times and nonsense are refused', () => {
  const is = (given: Record<string, string>, body = BODY, now = AT) => verify([KNOWN], given, body, 300, now);
  assert.equal(is(headers(SIGNATURE), Buffer.from('{}')), false);
  assert.equal(is(headers(SIGNATURE, AT + 1)), false);
  assert.equal(is(headers(SIGNATURE), BODY, AT + 300), true);
  assert.equal(is(headers(SIGNATURE), BODY, AT + 301), false);
  assert.equal(is(headers(SIGNATURE), BODY, AT - 301), false);
  assert.equal(is(headers(SIGNATURE, 'NaN')), false);
  for (const bad of ['', 'v1,', 'v1', SIGNATURE.slice(3), `v2,${SIGNATURE.slice(3)}`])
    assert.equal(is(headers(bad)), false, bad);
  assert.equal(is({}), false);
});

test('what is no secret is refused without showing it', () => {
  for (const bad of ['', 'whsec_', 'whsec_AAAA', KNOWN.slice(6), `whsec_${'A'.repeat(100)}`]) {
    assert.throws(
      () => verify([bad], {}, BODY),
      (error: Error) => error instanceof TypeError && !error.message.includes('AAAA'),
    );
  }
});
