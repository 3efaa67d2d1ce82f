// The Event Hubs client reads the event stream: its shape, all partitions from the
// start, from a place or a time on, for two consumer groups, and by owner level.
'use strict';

const assert = require('node:assert');
const { EventHubConsumerClient, earliestEventPosition, latestEventPosition } = require('@azure/event-hubs');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const WebSocket = require('ws');
const { Inbox, prove, run, within, until, operator, operatorJSON, register, deviceName } = require('./lib');

const name = deviceName('eventhub');
const devices = Array.from({ length: 8 }, (_, n) => `${name}-${n}`);
const perDevice = 10;

function consumer(group = '$Default') {
  return new EventHubConsumerClient(group, process.env.EVENT_HUB, {
    webSocketOptions: process.env.TRANSPORT === 'amqp-ws' ? { webSocket: WebSocket } : undefined,
    retryOptions: { maxRetries: 0, timeoutInMs: 20000 },
  });
}

// read follows a partition, or all without one, and keeps what comes of our devices.
function read(client, options, partition) {
  options = { maxBatchSize: 100, ...options }; // with one at a time, as it does by itself, it reads 150 a second
  const inbox = new Inbox();
  const handlers = {
    processEvents: async (batch, { partitionId }) => {
      for (const e of batch) {
        if (devices.includes(e.systemProperties['iothub-connection-device-id'])) inbox.put({ partitionId, ...e });
      }
    },
    processError: async (err) => { inbox.failed = err; inbox.put({ err }); },
  };
  inbox.subscription = partition === undefined ? client.subscribe(handlers, options) : client.subscribe(partition, handlers, options);
  return inbox;
}

async function take(inbox, what) {
  const e = await inbox.take(what);
  if (e.err) throw e.err;
  return e;
}

// whole reads all that was sent once, in the order of each device.
async function whole(inbox) {
  const next = new Map(devices.map((id) => [id, 0]));
  const all = [];
  while (all.length < devices.length * perDevice) {
    const e = await take(inbox, `event ${all.length}`);
    const id = e.systemProperties['iothub-connection-device-id'];
    assert.deepStrictEqual(e.body, { n: next.get(id) }, `of ${id}`);
    next.set(id, next.get(id) + 1);
    all.push(e);
  }
  return all;
}

async function send(client, n) {
  const m = new Message(JSON.stringify({ n }));
  m.contentType = 'application/json';
  m.contentEncoding = 'utf-8';
  m.messageId = `id ${n}`;
  m.properties.add('who', 'é');
  await within(client.sendEvent(m), 'the acknowledgement');
}

run(async () => {
  const clients = [];
  for (const id of devices) {
    const client = Client.fromConnectionString(await register(id), Mqtt);
    await within(client.open(), 'the device connects');
    clients.push(client);
  }
  const client = consumer();
  const before = new Date();
  await prove('the stream tells its shape', async () => {
    const hub = await within(client.getEventHubProperties(), 'the properties');
    assert.ok(hub.partitionIds.length >= 2 && hub.name && hub.createdOn <= before, JSON.stringify(hub));
    for (const [n, id] of hub.partitionIds.entries()) assert.strictEqual(id, `${n}`);
    assert.deepStrictEqual(await within(client.getPartitionIds(), 'the partitions'), hub.partitionIds);
  });
  await Promise.all(clients.map(async (device) => {
    for (let n = 0; n < perDevice; n++) await send(device, n);
  }));

  const all = await (async () => {
    const inbox = read(consumer(), { startPosition: earliestEventPosition });
    let found;
    await prove('all partitions are read from the start', async () => { found = await whole(inbox); });
    await inbox.subscription.close();
    return found;
  })();

  await prove('events say who sent them, and when', async () => {
    for (const e of all) {
      assert.strictEqual(e.contentType, 'application/json');
      assert.strictEqual(e.messageId, `id ${e.body.n}`);
      assert.deepStrictEqual(e.properties, { who: 'é' });
      assert.ok(Math.abs(e.enqueuedTimeUtc - Date.now()) < 60000);
      assert.strictEqual(typeof e.sequenceNumber, 'number');
      assert.match(`${e.offset}`, /^[0-9]+$/);
      const system = e.systemProperties;
      assert.strictEqual(system['iothub-message-source'], 'Telemetry');
      assert.strictEqual(JSON.parse(system['iothub-connection-auth-method']).type, 'sas');
      assert.ok(system['iothub-enqueuedtime']);
    }
    const one = await operatorJSON('device', 'show', devices[0]);
    const of = all.find((e) => e.systemProperties['iothub-connection-device-id'] === devices[0]);
    assert.strictEqual(of.systemProperties['iothub-connection-auth-generation-id'], one.generationId);
  });
  await prove('a device keeps to its partition, and there are several', async () => {
    const where = new Map();
    for (const e of all) {
      const id = e.systemProperties['iothub-connection-device-id'];
      if (!where.has(id)) where.set(id, e.partitionId);
      assert.strictEqual(e.partitionId, where.get(id));
    }
    assert.ok(new Set(where.values()).size > 1, `all in ${[...where.values()]}`);
  });

  const { partitionId } = all[0];
  const ours = all.filter((e) => e.partitionId === partitionId);
  const middle = ours[Math.floor(ours.length / 2)];
  const first = async (startPosition) => {
    const inbox = read(client, { startPosition }, partitionId);
    const e = await take(inbox, `the event from ${JSON.stringify(startPosition)} on`);
    await inbox.subscription.close();
    return e.sequenceNumber;
  };
  const after = ours[Math.floor(ours.length / 2) + 1].sequenceNumber;
  await prove('reading begins at a sequence number', async () => {
    assert.strictEqual(await first({ sequenceNumber: middle.sequenceNumber, isInclusive: true }), middle.sequenceNumber);
    assert.strictEqual(await first({ sequenceNumber: middle.sequenceNumber }), after);
  });
  await prove('reading begins at an offset', async () => {
    assert.strictEqual(await first({ offset: middle.offset }), after);
    assert.strictEqual(await first({ offset: middle.offset, isInclusive: true }), middle.sequenceNumber);
  });
  await prove('reading begins at a time', async () => {
    const since = ours.find((e) => e.enqueuedTimeUtc > middle.enqueuedTimeUtc);
    if (since) assert.strictEqual(await first({ enqueuedOn: middle.enqueuedTimeUtc }), since.sequenceNumber);
    const moment = Date.now();
    await until('the clock has moved on', async () => Date.now() > moment);
    const device = clients[devices.indexOf(ours[0].systemProperties['iothub-connection-device-id'])];
    const inbox = read(client, { startPosition: { enqueuedOn: moment } }, partitionId);
    await send(device, perDevice);
    assert.deepStrictEqual((await take(inbox, 'the newest event')).body, { n: perDevice });
    await inbox.subscription.close();
  });
  await prove('a partition tells how far it is', async () => {
    const p = await within(client.getPartitionProperties(partitionId), 'the properties of the partition');
    assert.strictEqual(p.partitionId, partitionId);
    assert.strictEqual(p.isEmpty, false);
    assert.strictEqual(p.lastEnqueuedSequenceNumber, ours.at(-1).sequenceNumber + 1);
    assert.ok(p.beginningSequenceNumber <= ours[0].sequenceNumber && p.lastEnqueuedOnUtc > before);
    await assert.rejects(within(client.getPartitionProperties('99'), 'the refusal'));
  });
  await prove('another consumer group reads on its own, and an unknown one is refused', async () => {
    const [a, b] = [consumer(), consumer('second')].map((c) => read(c, { startPosition: earliestEventPosition }));
    assert.deepStrictEqual((await whole(a)).length, (await whole(b)).length);
    await a.subscription.close();
    await b.subscription.close();
    const none = read(consumer('nobody'), { startPosition: earliestEventPosition }, partitionId);
    const { err } = await none.take('the refusal');
    assert.ok(err, 'an event of an unknown consumer group');
    await none.subscription.close();
  });
  await prove('a higher owner level takes a partition, a lower one is refused', async () => {
    const weak = read(consumer(), { startPosition: earliestEventPosition, ownerLevel: 1 }, partitionId);
    await take(weak, 'an event of the first owner');
    const strong = read(consumer(), { startPosition: earliestEventPosition, ownerLevel: 5 }, partitionId);
    await take(strong, 'an event of the second owner');
    const { err } = await weak.take('the first owner to be told', (e) => e.err);
    assert.strictEqual(err.code, 'ReceiverDisconnectedError', `${err}`);
    await weak.subscription.close();
    const late = read(consumer(), { startPosition: earliestEventPosition, ownerLevel: 2 }, partitionId);
    assert.strictEqual((await late.take('the refusal of a lower level', (e) => e.err)).err.code, 'ReceiverDisconnectedError');
    await late.subscription.close();
    await strong.subscription.close();
  });
  await prove('who asks for what is new gets it, and nothing older', async () => {
    const inbox = read(client, { startPosition: latestEventPosition });
    let n = 1000;
    await until('it hears', async () => { // it may begin to read a moment later than it is asked to
      await send(clients[0], n++);
      return inbox.waiting.length > 0;
    });
    const e = await take(inbox, 'an event');
    assert.ok(e.body.n >= 1000, `an event from before: ${JSON.stringify(e.body)}`);
    await inbox.subscription.close();
  });
  await prove('changes of twins are in the stream', async () => {
    const inbox = read(client, { startPosition: { enqueuedOn: new Date() } });
    let got;
    await until('a change comes', async () => { // it may begin to read a moment after the change
      await operator('twin', 'update', devices[0], '--desired', `{"at":${Date.now()}}`);
      got = inbox.waiting.find((e) => e.systemProperties?.['iothub-message-source'] === 'twinChangeEvents');
      return got;
    });
    assert.ok(got.body.properties.desired.at);
    await inbox.subscription.close();
  });
  for (const device of clients) await device.close();
});
