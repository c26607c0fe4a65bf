'use strict';
// Asks this process every few seconds and shows what it says. Text goes into the page as text only:
// what workers and clients say stands in it.

// The shortest time between two looks. A look reads a window of records, so a slow one is
// followed by a longer pause: at most a fifth of the time goes into looking.
const PAUSE_MS = 2000;
const SHARE = 5;
// Halted messages that are listed for a lane.
const SHOWN = 20;

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat();

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function age(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

// A problem document, with what the worker itself said in it, or whatever else there is, in a line.
function reason(error) {
  if (typeof error !== 'object') return String(error);
  const said = error.detail ?? error.title ?? JSON.stringify(error);
  return [error.code, said, error.problem ? reason(error.problem) : ''].filter(Boolean).join(': ');
}

function list(pairs) {
  return element('dl', {}, ...pairs.flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, value)]));
}

const isHalted = (lane) => Boolean(lane.haltedByLoss) || lane.haltedMessages?.length > 0;

function bar(lane) {
  const halted = lane.haltedMessages.length;
  const parts = [
    ['working', lane.inProgress],
    ['ready', lane.ready],
    ['halted', halted],
  ];
  const label = `of a window of ${lane.window}: ${lane.inProgress} in progress, ${lane.ready} ready, ${halted} halted`;
  const made = element('div', { class: 'bar', role: 'img', 'aria-label': label });
  for (const [name, count] of parts) {
    const part = element('i', { class: name });
    // Few of many would not be seen.
    part.style.width = count > 0 ? `max(2px, ${(100 * count) / Math.max(lane.window, 1)}%)` : '0';
    made.append(part);
  }
  return made;
}

function laneCard(lane) {
  const card = element('article', { class: isHalted(lane) ? 'card halted' : 'card', 'data-lane': lane.lane });
  const state = isHalted(lane) ? 'halted' : lane.problem ? 'no owner yet' : lane.lag > 0 ? 'busy' : 'idle';
  card.append(element('h3', {}, `Lane ${lane.lane}: ${state}`));
  const said = lane.haltedByLoss ?? lane.problem;
  if (said) card.append(element('p', {}, said));
  if (lane.limit === undefined) return card;
  card.append(
    bar(lane),
    list([
      ['In progress', number.format(lane.inProgress)],
      ['Ready, waiting for their turn', number.format(lane.ready)],
      ['Came in and not released', number.format(lane.lag)],
      ['Window', number.format(lane.window)],
      ['Oldest', lane.blocking ? `${lane.blocking.id}, ${age(lane.blocking.ageSeconds)}` : 'none'],
      ['Epoch of its owner', number.format(lane.epoch)],
    ]),
  );
  return card;
}

function messageTable(messages) {
  const head = ['Message', 'State', 'Age', 'Attempt', 'Why'].map((title) => element('th', { scope: 'col' }, title));
  const rows = messages.slice(0, SHOWN).map((message) => {
    const why = message.error ? reason(message.error) : message.waitsFor ? `waits for ${message.waitsFor}` : '';
    const cells = [message.id, message.state, age(message.ageSeconds), message.attempt ?? '', why];
    return element('tr', {}, ...cells.map((cell) => element('td', {}, String(cell))));
  });
  return element('div', { class: 'scroll' }, element('table', {}, element('tr', {}, ...head), ...rows));
}

function showBlocks(answers) {
  const blocks = answers.map(({ sentence, messages }) => {
    const block = element('div', { class: 'card block' }, element('p', {}, sentence));
    if (messages.length > 0) block.append(messageTable(messages));
    return block;
  });
  $('blocks').replaceChildren(...blocks);
}

// What the metrics of this process say of destinations: those of which it pushes lanes.
function pushes(metrics) {
  const found = new Map();
  for (const line of metrics.split('\n')) {
    const parts = /^seriatim_destination_(\w+)\{(.*)\} (\S+)/.exec(line);
    const name = parts && /destination="((?:[^"\\]|\\.)*)"/.exec(parts[2]);
    if (!name) continue;
    const push = found.get(name[1]) ?? { lag: 0, oldest_seconds: 0, breaker_open: 0, halted: 0 };
    const value = Number(parts[3]);
    // Lanes add up, but for the oldest of all.
    push[parts[1]] = parts[1] === 'oldest_seconds' ? Math.max(push.oldest_seconds, value) : push[parts[1]] + value;
    found.set(name[1], push);
  }
  return found;
}

// How many outputs went to each topic: the sequence numbers that its lanes have come to.
function written(lanes) {
  const topics = new Map();
  for (const lane of lanes) {
    for (const [topic, next] of Object.entries(lane.sequences ?? {}))
      topics.set(topic, (topics.get(topic) ?? 0) + next);
  }
  return topics;
}

function showDestinations(lanes, metrics) {
  const topics = [...written(lanes)].map(([topic, count]) =>
    element('article', { class: 'card' }, element('h3', {}, topic), list([['Outputs released', number.format(count)]])),
  );
  const pushed = [...pushes(metrics)].map(([name, push]) => {
    const down = push.halted > 0 || push.breaker_open > 0;
    const state =
      push.halted > 0
        ? 'halted'
        : push.breaker_open > 0
          ? 'down, being probed'
          : push.lag > 0
            ? 'pushing'
            : 'up to date';
    return element(
      'article',
      { class: down ? 'card halted' : 'card', 'data-destination': name },
      element('h3', {}, `Push to ${name}: ${state}`),
      list([
        ['Not yet acknowledged', number.format(push.lag)],
        ['Oldest of them', push.lag > 0 ? age(push.oldest_seconds) : 'none'],
        ['Groups that wait for an operator', number.format(push.halted)],
      ]),
    );
  });
  const none = element('p', { class: 'dim' }, 'Nothing has been released yet.');
  const all = [...topics, ...pushed];
  $('destinations').replaceChildren(...(all.length > 0 ? all : [none]));
}

function batchCard(batch) {
  const { counts } = batch;
  const waits = batch.blockedBy.length > 0;
  const card = element('article', { class: waits || batch.stalled ? 'card halted' : 'card', 'data-batch': batch.id });
  const state = batch.stalled && !batch.endedAt ? `${batch.status}, stalled` : batch.status;
  const finished = counts.total - counts.pending - counts.running;
  card.append(
    element('h3', {}, `${batch.id}: ${state}`),
    element('progress', { max: counts.total, value: finished, 'aria-label': `${finished} of ${counts.total}` }),
    list([
      ['Items', number.format(counts.total)],
      ['Running', number.format(counts.running)],
      ['Succeeded', number.format(counts.succeeded)],
      ['Failed, timed out, given up', number.format(counts.failed + counts.timedOut + counts.discarded)],
      [batch.endedAt ? 'Ended' : 'Expected to end', when(batch.endedAt ?? batch.eta)],
    ]),
  );
  if (waits) card.append(element('p', {}, `Waits for an operator: items ${batch.blockedBy.join(', ')}`));
  return card;
}

const when = (time) => (time ? new Date(time).toLocaleTimeString() : 'unknown');

function showBatches(batches) {
  $('batches-section').hidden = batches.length === 0;
  $('batches').replaceChildren(...batches.map(batchCard));
}

function showStatus(lanes) {
  const halted = lanes.filter(isHalted).length;
  const lag = lanes.reduce((sum, lane) => sum + (lane.lag ?? 0), 0);
  const said =
    halted > 0
      ? `${halted} of ${lanes.length} lanes halted`
      : lag > 0
        ? `${number.format(lag)} on their way`
        : 'everything that came in has left';
  status(said, halted > 0);
}

function status(text, halted) {
  const shown = $('status');
  shown.className = halted ? 'halted' : '';
  // Only what is new is read out.
  if (shown.textContent !== text) shown.textContent = text;
}

async function get(path) {
  const answer = await fetch(path, { cache: 'no-store' });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}

async function look() {
  const [lanes, why, batches, metrics] = await Promise.all([
    get('/v1/lanes').then((answer) => answer.json()),
    get('/v1/why').then((answer) => answer.json()),
    get('/v1/batches').then((answer) => answer.json()),
    get('/metrics').then((answer) => answer.text()),
  ]);
  $('lanes').replaceChildren(...lanes.lanes.map(laneCard));
  showBlocks(why.answers);
  showBatches(batches.batches);
  showDestinations(lanes.lanes, metrics);
  showStatus(lanes.lanes);
}

async function keepLooking() {
  for (;;) {
    const began = performance.now();
    // A page that nobody sees costs nothing.
    if (!document.hidden) await look().catch((error) => status(`cannot be reached: ${error.message}`, true));
    await new Promise((resolve) => setTimeout(resolve, Math.max(PAUSE_MS, SHARE * (performance.now() - began))));
  }
}

keepLooking();
