/** What needs no sockets. Reaches into the package: these are not of its public face. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Backoff, retryAfter } from '#dist/retry.js';
import { Ranges } from '#dist/ranges.js';
import { Marks } from '#dist/store.js';
import { SseParser } from '#dist/sse.js';
import { encode } from '#dist/message.js';
import { random } from './support.js';

test('events are the same wherever the stream is cut', () => {
  const stream = Buffer.from(
    ': seriatim\n\nid: 0:1\ndata: {"ü":1}\n\n:\n\nid: 0:2\r\ndata: a\r\ndata: b\r\n\r\ndata\n\nid: 0:9\ndata: cut',
  );
  const expected = [
    { id: '0:1', data: '{"ü":1}' },
    { id: '0:2', data: 'a\nb' },
    { id: '0:2', data: '' },
  ];
  for (let cut = 0; cut <= stream.length; cut++) {
    const parser = new SseParser();
    const events = [...parser.feed(stream.subarray(0, cut)), ...parser.feed(stream.subarray(cut))];
    assert.deepEqual(events, expected, `cut at ${cut}`);
  }
});

test('ranges are a set of numbers', () => {
  for (let seed = 0; seed < 200; seed++) {
    const below = random(seed);
    const naive = new Set<number>();
    let ranges = new Ranges();
    for (let step = 0; step < 60; step++) {
      const number = below(40);
      if (below(8) === 0) {
        ranges.dropBelow(number);
        for (const one of naive) if (one < number) naive.delete(one);
      } else {
        ranges.add(number);
        naive.add(number);
      }
      if (below(10) === 0) ranges = new Ranges(ranges.toJSON());
      for (let one = 0; one < 41; one++)
        assert.equal(ranges.has(one), naive.has(one), `seed ${seed}, step ${step}, ${one}`);
      const runs = ranges.toJSON().flat();
      assert.ok(
        runs.every((bound, at) => at === 0 || bound > (runs[at - 1] ?? 0)),
        `apart and ascending: ${runs}`,
      );
    }
  }
});

test('a sender that repeats at will and is replaced has each item applied once', () => {
  for (let seed = 0; seed < 300; seed++) {
    const below = random(seed);
    let marks = new Marks();
    const applied: number[] = [];
    // Two groups, even and odd; each has one item in flight, which may be sent any number of times.
    const next = [0, 1];
    let epoch = 1;
    while (Math.min(...next) < 30) {
      if (below(10) === 0) epoch += 1;
      if (below(10) === 0) marks = new Marks(JSON.parse(JSON.stringify(marks)));
      const group = below(2);
      const sequence = next[group] ?? 0;
      const place = { stream: 's', epoch, sequence, doneBelow: Math.min(...next) };
      const verdict = marks.judge(place);
      assert.notEqual(verdict, 'stale');
      assert.equal(verdict === 'apply', !applied.includes(sequence), `seed ${seed}`);
      if (verdict === 'apply') {
        marks.note(place);
        applied.push(sequence);
      }
      // What a replaced sender still sends is refused once an item of the new one was applied.
      if (verdict === 'apply') assert.equal(marks.judge({ ...place, epoch: epoch - 1 }), 'stale');
      const acknowledged = below(3) > 0;
      if (acknowledged) next[group] = sequence + 2;
      // A late copy of anything that was done is a repeat.
      for (const old of applied) assert.equal(marks.judge({ ...place, sequence: old }), 'repeat');
    }
    assert.equal(new Set(applied).size, applied.length, 'none was applied twice');
  }
});

test('a replay is applied once where the receiver takes part, and not at all where it does not', () => {
  const marks = new Marks();
  const place = { stream: 's', epoch: 1, sequence: 5, doneBelow: 9 };
  assert.equal(marks.judge(place), 'apply', 'nothing is known of the stream yet');
  marks.note({ ...place, sequence: 9 });
  assert.equal(marks.judge(place), 'repeat');
  assert.equal(marks.judge({ ...place, replay: 'r' }), 'apply');
  marks.note({ ...place, replay: 'r' });
  assert.equal(marks.judge({ ...place, replay: 'r' }), 'repeat');
  assert.equal(marks.judge({ ...place, replay: 'q' }), 'apply');
});

test('Retry-After is read in both forms and nonsense is ignored', () => {
  const now = Date.parse('Sun, 06 Nov 1994 08:49:37 GMT');
  for (const [value, expected] of [
    ['0', 0],
    [' 120 ', 120_000],
    ['Sun, 06 Nov 1994 08:51:37 GMT', 120_000],
    ['Sun, 06 Nov 1994 08:00:00 GMT', 0],
    ['', undefined],
    ['-5', undefined],
    ['1.5', undefined],
    ['soon', undefined],
    ['2', 2_000],
    [null, undefined],
  ] as const) {
    assert.equal(retryAfter(value, now), expected, String(value));
  }
});

test('pauses grow to a limit, have a floor, and are never shorter than asked for', () => {
  const backoff = new Backoff();
  const pauses = Array.from({ length: 20 }, () => backoff.next());
  pauses.forEach((pause, at) => {
    const full = Math.min(100 * 2 ** at, 10_000);
    assert.ok(pause >= full / 2 && pause <= full, `${at}: ${pause}`);
  });
  assert.ok(backoff.next(15_000) >= 15_000);
  assert.ok(backoff.next(1e12) <= 60 * 60 * 1000);
});

test('a message that no request can carry is refused where it is given', () => {
  for (const bad of [
    { key: '' },
    { key: ' a' },
    { key: 'a\nb' },
    { idempotencyKey: '' },
    { idempotencyKey: 'ü' },
    { destination: 'a\r\nb' },
  ]) {
    assert.throws(() => encode(1, bad), TypeError, JSON.stringify(bad));
  }
  assert.throws(() => encode(undefined), TypeError);
  assert.throws(() => encode(() => 1), TypeError);
  assert.deepEqual(encode(1, { key: 'schlüssel' }).headers, {
    'seriatim-key': Buffer.from('schlüssel').toString('latin1'),
  });
  assert.equal(encode(1, { idempotencyKey: 'a "b\\' }).idempotencyKey, '"a \\"b\\\\"');
});
