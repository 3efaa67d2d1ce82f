// One connection an identity whatever the protocol: a client of one takes over from a
// client of another.
'use strict';

const assert = require('node:assert');
const { NoRetry } = require('azure-iot-common');
const { Amqp } = require('azure-iot-device-amqp');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Inbox, prove, run, within, operator, operatorJSON, register, deviceName } = require('./lib');

const device = deviceName('across');

async function open(cs, Transport) {
  const client = Client.fromConnectionString(cs, Transport);
  client.setRetryPolicy(new NoRetry());
  await within(client.open(), 'the client connects');
  client.gone = new Promise((resolve) => client.on('disconnect', resolve));
  client.inbox = new Inbox();
  client.on('message', (m) => client.inbox.put(m));
  client.onDeviceMethod('who', (_request, response) => response.send(200, Transport.name, () => {}));
  await within(client.sendEvent(new Message(Transport.name)), 'the acknowledgement');
  return client;
}

run(async () => {
  const cs = await register(device);
  let last = await open(cs, Amqp);
  for (const Transport of [Mqtt, Amqp, Mqtt]) {
    await prove(`${Transport.name} takes over and has all`, async () => {
      const next = await open(cs, Transport);
      await within(last.gone, 'the disconnect');
      await operator('message', 'send', device, `for ${Transport.name}`);
      const m = await next.inbox.take('the message');
      assert.strictEqual(m.getData().toString(), `for ${Transport.name}`);
      await within(next.complete(m), 'the completion');
      assert.deepStrictEqual(await operatorJSON('method', 'invoke', device, 'who', '--connect-timeout', '20s'), { status: 200, payload: Transport.name });
      last = next;
    });
  }
  await last.close();
});
