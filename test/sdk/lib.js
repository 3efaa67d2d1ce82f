// What the scripts share: a device client over the transport asked for, the operator's
// commands, the hub's event stream, and steps that say what they proved.
'use strict';

const { execFile, spawn } = require('node:child_process');
const fs = require('node:fs');
const readline = require('node:readline');
const util = require('node:util');
const { NoRetry } = require('azure-iot-common');
const { Client } = require('azure-iot-device');
const { Transport } = require('./transport');

const patience = 30000;

// within fails when a promise takes too long; what says what was waited for.
function within(promise, what, limit = patience) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${limit / 1000} s in vain: ${what}`)), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// prove runs one step and says what it showed.
async function prove(what, step) {
  try {
    await step();
  } catch (err) {
    err.message = `${what}: ${err.message}`;
    throw err;
  }
  console.log(`proved: ${what}`);
}

// run is a script's main: it ends the process, with 1 when a step failed.
function run(script) {
  within(script(), 'the whole script', 4 * patience).then(
    () => process.exit(0),
    (err) => {
      console.error(util.inspect(err));
      process.exit(1);
    });
}

// operator runs a command of selvedge and gives what it prints.
function operator(...args) {
  return new Promise((resolve, reject) => {
    execFile(process.env.SELVEDGE, args, (err, stdout, stderr) => {
      if (err) reject(new Error(`selvedge ${args.join(' ')}: ${stderr.trim()}`));
      else resolve(stdout);
    });
  });
}

async function operatorJSON(...args) {
  return JSON.parse(await operator(...args, '--output', 'json'));
}

// until asks again and again until a condition holds.
async function until(what, holds) {
  const end = Date.now() + patience;
  for (;;) {
    if (await holds()) return;
    if (Date.now() > end) throw new Error(`waited ${patience / 1000} s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Inbox keeps what comes until somebody takes it.
class Inbox {
  constructor() {
    this.waiting = [];
    this.taker = null;
  }

  put(item) {
    if (this.taker && this.taker.fits(item)) {
      const { resolve } = this.taker;
      this.taker = null;
      resolve(item);
    } else {
      this.waiting.push(item);
    }
  }

  // take gives the first item that fits, now or later, and forgets it.
  take(what, fits = () => true) {
    const at = this.waiting.findIndex(fits);
    if (at >= 0) return Promise.resolve(this.waiting.splice(at, 1)[0]);
    return within(new Promise((resolve) => { this.taker = { fits, resolve }; }), what);
  }
}

// events follows a device's telemetry at the hub; close it at the end.
function events(device) {
  const inbox = new Inbox();
  const watch = spawn(process.env.SELVEDGE, ['events', '--device', device, '--since', '1h', '--output', 'json'],
    { stdio: ['ignore', 'pipe', 'inherit'] });
  readline.createInterface({ input: watch.stdout }).on('line', (line) => inbox.put(JSON.parse(line)));
  inbox.close = () => watch.kill();
  return inbox;
}

// identity registers the script's device the way the test wants it.
async function register(device) {
  if (process.env.AUTH !== 'x509') {
    await operator('device', 'create', device);
  } else {
    await operator('device', 'create', device, '--auth', 'x509-thumbprint',
      '--primary-thumbprint', process.env.CERT_THUMBPRINT);
  }
  return (await operator('device', 'connection-string', device)).trim();
}

// connect opens a client for a device; the SDK's own retries are off unless asked for,
// so that what goes wrong is seen.
async function connect(connectionString, { retry = false } = {}) {
  const client = Client.fromConnectionString(connectionString, Transport);
  if (!retry) client.setRetryPolicy(new NoRetry());
  if (process.env.AUTH === 'x509') {
    await client.setOptions({ cert: fs.readFileSync(process.env.CERT_FILE, 'utf8'),
      key: fs.readFileSync(process.env.CERT_KEY, 'utf8') });
  }
  await within(client.open(), 'the client connects');
  return client;
}

// unauthorized is true for the SDK's error that makes an application stop trying.
const unauthorized = (err) => err.name === 'UnauthorizedError';

// ask lets the test around do something that a script cannot, such as killing the hub.
const answers = readline.createInterface({ input: process.stdin });
const replies = new Inbox();
answers.on('line', (line) => replies.put(line));
function ask(what) {
  console.log(`@${what}`);
  return replies.take(`the test does ${what}`, (line) => line === what);
}

// deviceName is unique for script and transport.
function deviceName(script) {
  return `${script}-${process.env.TRANSPORT}-${process.env.AUTH}`;
}

module.exports = { Transport, Inbox, within, prove, run, operator, operatorJSON, until, events, register, connect, unauthorized, ask, deviceName };
