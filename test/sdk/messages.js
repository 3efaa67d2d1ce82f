// The service SDK over AMQP: messages to devices, what became of them, and a receiver
// of file notifications, which stays open while there are none.
'use strict';

const assert = require('node:assert');
const { Message } = require('azure-iot-common');
const { Client: DeviceClient } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Client: ServiceClient } = require('azure-iothub');
const { Amqp } = require('azure-iothub/dist/amqp');
const { AmqpWs } = require('azure-iothub/dist/amqp_ws');
const { Inbox, prove, run, within, until, operatorJSON, register, deviceName } = require('./lib');

const device = deviceName('messages');
const Transport = { amqp: Amqp, 'amqp-ws': AmqpWs }[process.env.TRANSPORT];

function message(text, ack, more = {}) {
  const m = new Message(text);
  m.messageId = `${device} ${text}`;
  m.ack = ack;
  return Object.assign(m, more);
}

// receiver opens one of the service client's receivers.
const receiver = (service, kind) => within(new Promise((resolve, reject) =>
  service[kind]((err, found) => (err ? reject(err) : resolve(found)))), kind);

run(async () => {
  const cs = await register(device);
  const service = ServiceClient.fromConnectionString(process.env.SELVEDGE_HUB, Transport);
  await within(service.open(), 'the service client connects');

  const feedback = new Inbox();
  const records = await receiver(service, 'getFeedbackReceiver');
  records.on('error', (err) => { throw err; });
  records.on('message', (batch) => {
    records.complete(batch, (err) => { if (err) throw err; });
    for (const record of JSON.parse(batch.getData())) {
      if (record.deviceId === device) feedback.put({ batch, ...record });
    }
  });
  const files = await receiver(service, 'getFileNotificationReceiver');
  let unwanted = null;
  files.on('message', (m) => { unwanted = m; });
  files.on('error', (err) => { unwanted = err; });
  const told = (text) => feedback.take(`feedback on "${text}"`, (r) => r.originalMessageId === `${device} ${text}`);

  const client = DeviceClient.fromConnectionString(cs, Mqtt);
  await within(client.open(), 'the device connects');
  const inbox = new Inbox();
  client.on('message', (m) => inbox.put(m));

  await prove('a message reaches the device with all it was sent with', async () => {
    const sent = message('open', 'full', { correlationId: 'c 1', contentType: 'application/json', contentEncoding: 'utf-8',
      userId: 'operator' });
    sent.properties.add('the site', 'north & south');
    await within(service.send(device, sent), 'the acknowledgement');
    const m = await inbox.take('the message');
    assert.strictEqual(m.getData().toString(), 'open');
    assert.strictEqual(m.messageId, sent.messageId);
    assert.strictEqual(m.correlationId, 'c 1');
    assert.strictEqual(m.contentType, 'application/json');
    assert.ok(m.properties.propertyList.some(({ key, value }) => key === 'the site' && value === 'north & south'));
    await within(client.complete(m), 'the completion');
  });
  await prove('feedback tells of success, and of what asked for none nothing', async () => {
    const record = await told('open');
    assert.strictEqual(record.statusCode, 'Success');
    assert.strictEqual(record.deviceId, device);
    assert.ok(record.deviceGenerationId && Math.abs(Date.parse(record.enqueuedTimeUtc) - Date.now()) < 60000);
    assert.strictEqual(record.batch.contentType, 'application/vnd.microsoft.iothub.feedback.json');
    for (const [text, ack] of [['silent', 'none'], ['only failures', 'negative'], ['successes', 'positive']]) {
      await within(service.send(device, message(text, ack)), 'the acknowledgement');
      await within(client.complete(await inbox.take(text)), 'the completion');
    }
    assert.strictEqual((await told('successes')).statusCode, 'Success');
    assert.deepStrictEqual(feedback.waiting, []);
  });
  await prove('feedback tells of expiry', async () => {
    await client.close();
    const soon = Date.now() + 1000;
    await within(service.send(device, message('too late', 'full', { expiryTimeUtc: soon })), 'the acknowledgement');
    assert.strictEqual((await told('too late')).statusCode, 'Expired');
  });
  await prove('a message for nobody is refused, and the client works on', async () => {
    await assert.rejects(within(service.send(`${device}-unknown`, message('x', 'full')), 'the refusal'), (err) => err.name === 'DeviceNotFoundError');
    await within(service.send(device, message('waits', 'none')), 'the acknowledgement');
    await until('the message waits', async () => (await operatorJSON('device', 'show', device)).cloudToDeviceMessageCount === 1);
  });
  await prove('the file notification receiver is still open and silent', async () => {
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.strictEqual(unwanted, null);
  });
  await service.close();
  await prove('a wrong key of a policy is refused', async () => {
    const wrong = ServiceClient.fromConnectionString(process.env.SELVEDGE_HUB.replace(/SharedAccessKey=.*/,
      `SharedAccessKey=${Buffer.alloc(32, 1).toString('base64')}`), Transport);
    await assert.rejects(within((async () => { await wrong.open(); await wrong.send(device, message('x', 'none')); })(), 'the refusal'),
      ({ amqpError }) => amqpError.name === 'UnauthorizedError'); // the SDK wraps it
  });
});
