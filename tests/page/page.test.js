// The page of the admin port in a real browser, with a pipeline that halts and goes on.
//
//   apt-get install chromium; npm ci && node --test     (CHROMIUM names another browser)
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { createServer as createHttp } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import puppeteer from 'puppeteer-core';

const TARGET = process.env.CARGO_TARGET_DIR ?? join(import.meta.dirname, '../../target');
const PROGRAM = process.env.SERIATIM ?? join(TARGET, 'debug/seriatim');
const CHROMIUM = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
].find((path) => path && existsSync(path));
// What a worker says must never become a part of the page.
const HOSTILE = '<img src=x onerror="document.title=1">';

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// A worker that refuses what says so, with a reason that would like to be HTML.
async function worker(t) {
  const server = createHttp(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const refuses = Buffer.concat(chunks).toString() === 'never';
    if (refuses)
      response
        .writeHead(422, { 'content-type': 'application/problem+json' })
        .end(JSON.stringify({ code: 'no', detail: HOSTILE }));
    else response.writeHead(200).end('done');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => (server.closeAllConnections(), server.close()));
  return server.address().port;
}

// The real program: where messages go, and where operators look.
async function pipeline(t, workerPort) {
  const folder = mkdtempSync(join(tmpdir(), 'seriatim-page-'));
  const [ingress, admin] = [await freePort(), await freePort()];
  const env = {
    PATH: process.env.PATH,
    SERIATIM_LOG__EMBEDDED: join(folder, 'data'),
    SERIATIM_INGRESS__HTTP: `127.0.0.1:${ingress}`,
    SERIATIM_ADMIN__LISTEN: `127.0.0.1:${admin}`,
    SERIATIM_WORK__HTTP: `{ url = "http://127.0.0.1:${workerPort}/" }`,
    SERIATIM_DESTINATIONS__DEFAULT__PUSH: `{ http = { url = "http://127.0.0.1:${workerPort}/", allow_private = true } }`,
  };
  const child = spawn(PROGRAM, ['run'], { cwd: folder, env, stdio: ['ignore', 'ignore', 'inherit'] });
  t.after(async () => {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    rmSync(folder, { recursive: true, force: true });
  });
  const [url, operators] = [`http://127.0.0.1:${ingress}`, `http://127.0.0.1:${admin}`];
  while (!(await fetch(`${operators}/readyz`).catch(() => undefined))?.ok) await pause(20);
  const send = (body) => fetch(`${url}/v1/messages`, { method: 'POST', body });
  const start = (batch) => fetch(`${url}/v1/batches`, { method: 'POST', body: JSON.stringify(batch) });
  return { send, start, operators };
}

test(
  'the page shows what blocks, and that it goes on',
  { timeout: 120_000, skip: CHROMIUM ? false : 'there is no browser' },
  async (t) => {
    const { send, start, operators } = await pipeline(t, await worker(t));
    // As root, which tests in containers are, the browser has no sandbox.
    const browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-gpu'] });
    t.after(() => browser.close());
    const page = await browser.newPage();
    const [asked, complaints] = [[], []];
    page.on('request', (request) => asked.push(request.url()));
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(String(error)));
    const shows = (text) =>
      page.waitForFunction((text) => document.body.innerText.includes(text), { timeout: 30_000 }, text);

    for (const body of ['one', 'never', 'two', 'three']) await send(body);
    await page.goto(operators);
    await shows('1 of 1 lanes halted');
    await shows('Lane 0: halted');
    await shows(HOSTILE);
    await shows('Push to default: up to date');
    assert.equal(await page.$$eval('img', (images) => images.length), 0, 'what a worker says is text');
    assert.match(
      await page.$eval('.bar', (bar) => bar.getAttribute('aria-label')),
      /of a window of 10000: 0 in progress, 2 ready, 1 halted/,
    );
    const blocking = await page.$eval('#blocks tbody, #blocks table', (table) => table.innerText);
    assert.match(blocking, /0-1\s+halted/);

    await t.test('on a phone nothing is cut off', async () => {
      await page.setViewport({ width: 360, height: 640, isMobile: true });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
    });
    await t.test('it is dark where the reader wants it dark', async () => {
      const brightness = () =>
        page.evaluate(() => {
          const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
          return red + green + blue;
        });
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }]);
      assert.ok((await brightness()) > 600);
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
      assert.ok((await brightness()) < 150);
    });
    await t.test('batches show how far they are', async () => {
    assert.equal(await page.$eval('#batches-section', (section) => section.hidden), true, 'there are none');
    assert.equal((await start({ id: 'night', count: 30 })).status, 202);
    await shows('night: completed');
    const progress = await page.$eval('[data-batch=night] progress', (bar) => [bar.value, bar.max]);
    assert.deepEqual(progress, [30, 30]);
  });
  await t.test('what is done elsewhere appears by itself', async () => {
      await act(operators);
      await shows('everything that came in has left');
      await shows('Lane 0: idle');
      assert.equal(await page.$('.halted.card'), null);
    });
    if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true });
    assert.deepEqual(complaints, [], 'the policy lets through what the page needs');
    assert.ok(
      asked.every((url) => url.startsWith(`${operators}/`) || url.startsWith('data:')),
      asked.join(),
    );
  },
);

// Passes the halted message over, as `seriatim lanes skip` does.
async function act(operators) {
  const child = spawn(PROGRAM, ['lanes', 'skip', '0', '--all', '--reason', 'test', '--url', operators], {
    stdio: 'inherit',
  });
  const [code] = await once(child, 'exit');
  assert.equal(code, 0);
}
