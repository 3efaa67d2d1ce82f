// Telemetry arrives at the hub with its body, every system property and every
// application property, and a thousand messages arrive in order.
'use strict';

const assert = require('node:assert');
const { Message } = require('azure-iot-device');
const { prove, run, within, operatorJSON, events, register, connect, deviceName } = require('./lib');

const device = deviceName('telemetry');
const overAMQP = process.env.TRANSPORT.startsWith('amqp');

run(async () => {
  const client = await connect(await register(device));
  const arrived = events(device);

  await prove('every property arrives', async () => {
    const sent = new Message(JSON.stringify({ pressure: 4.25, at: '2026-01-31T08:00:00.1234567Z' }));
    sent.messageId = 'id-1:/?#%+é ';
    sent.correlationId = 'correlation & = id';
    sent.userId = 'user/1';
    sent.to = 'somewhere';
    const expiry = Date.parse('2099-01-31T08:00:00.000Z'); // over AMQP the SDK can send nothing but a number
    sent.expiryTimeUtc = overAMQP ? expiry : new Date(expiry).toISOString();
    sent.contentType = 'application/json';
    sent.contentEncoding = 'utf-8';
    sent.setAsSecurityMessage();
    const own = { plain: 'value', 'with space': 'a b', 'a&b=c%+': 'x&y=z%+/é', empty: '', $dollar: '$1' };
    for (const [name, value] of Object.entries(own)) sent.properties.add(name, value);
    await within(client.sendEvent(sent), 'the acknowledgement');

    const got = await arrived.take('the message at the hub');
    assert.deepStrictEqual(got.body, { pressure: 4.25, at: '2026-01-31T08:00:00.1234567Z' });
    assert.strictEqual(got.deviceId, device);
    assert.strictEqual(got.messageSource, 'Telemetry');
    assert.ok(Math.abs(Date.parse(got.enqueuedTime) - Date.now()) < 60000, `enqueued ${got.enqueuedTime}`);
    assert.deepStrictEqual(got.properties, own);
    const system = got.systemProperties;
    assert.strictEqual(system.messageId, sent.messageId);
    assert.strictEqual(system.correlationId, sent.correlationId);
    assert.strictEqual(system.userId, overAMQP ? undefined : sent.userId); // the SDK drops it over AMQP
    assert.strictEqual(system.contentType, 'application/json');
    assert.strictEqual(system.contentEncoding, 'utf-8');
    assert.strictEqual(Date.parse(system.expiryTimeUtc), expiry);
    assert.strictEqual(system.interfaceId, 'urn:azureiot:Security:SecurityAgent:1');
    const method = JSON.parse(system.connectionAuthMethod);
    assert.strictEqual(method.scope, 'device');
    assert.strictEqual(method.type, process.env.AUTH);
    const { generationId } = await operatorJSON('device', 'show', device);
    assert.strictEqual(system.connectionDeviceGenerationId, generationId);
  });

  await prove('an empty body and a binary body arrive', async () => {
    await within(client.sendEvent(new Message(Buffer.alloc(0))), 'the acknowledgement');
    assert.strictEqual((await arrived.take('the empty message')).body, '');
    await within(client.sendEvent(new Message(Buffer.from([0, 255, 254, 10, 13]))), 'the acknowledgement');
    const { body } = await arrived.take('the binary message');
    assert.deepStrictEqual(body, { base64: Buffer.from([0, 255, 254, 10, 13]).toString('base64') });
  });

  await prove('255 KiB arrive', async () => {
    const text = 'x'.repeat(255 * 1024);
    const sent = new Message(JSON.stringify(text));
    sent.contentType = 'application/json';
    sent.contentEncoding = 'utf-8';
    await within(client.sendEvent(sent), 'the acknowledgement');
    assert.strictEqual((await arrived.take('the long message')).body, text);
  });

  await prove('a batch of 1,000 arrives whole and in order', async () => {
    const all = Array.from({ length: 1000 }, (_, n) => {
      const m = new Message(JSON.stringify({ n }));
      m.contentType = 'application/json';
      m.contentEncoding = 'utf-8';
      return m;
    });
    await within(Promise.all(all.map((m) => client.sendEvent(m))), 'all acknowledgements');
    for (let n = 0; n < all.length; n++) {
      assert.deepStrictEqual((await arrived.take(`message ${n}`)).body, { n });
    }
  });

  arrived.close();
  await client.close();
});
