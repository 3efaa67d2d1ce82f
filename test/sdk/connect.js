// A device connects with a shared access key or a self-signed certificate, and is
// refused with a wrong one.
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { Transport, prove, run, operator, operatorJSON, until, within, unauthorized, register, connect, deviceName } = require('./lib');

const device = deviceName('connect');
const overAMQP = process.env.TRANSPORT.startsWith('amqp');
const state = async () => (await operatorJSON('device', 'show', device)).connectionState;

run(async () => {
  const cs = await register(device);
  const client = await connect(cs);
  // Over AMQP a device is connected once it has a link beside that of its tokens.
  if (overAMQP) await within(client.sendEvent(new Message('here I am')), 'the acknowledgement');
  await prove(`connects with ${process.env.AUTH} over ${process.env.TRANSPORT}`, () =>
    until('the hub shows it as connected', async () => (await state()) === 'Connected'));
  await client.close();
  await prove('closes', () => until('the hub shows it as disconnected', async () => (await state()) === 'Disconnected'));

  await prove('a wrong key is refused', async () => {
    const wrong = process.env.AUTH === 'x509'
      ? `${cs.replace(/;x509=true/i, '')};SharedAccessKey=${crypto.randomBytes(32).toString('base64')}`
      : cs.replace(/SharedAccessKey=.*/, `SharedAccessKey=${crypto.randomBytes(32).toString('base64')}`);
    await refused(wrong);
  });
  await prove('an unknown device is refused', () =>
    refused(cs.replace(device, `${device}-unknown`).replace(/;x509=true/i, `;SharedAccessKey=${crypto.randomBytes(32).toString('base64')}`)));
  await prove('a device that is deleted is cut off', async () => {
    const live = await connect(cs);
    if (overAMQP) await within(live.sendEvent(new Message('still here')), 'the acknowledgement');
    const gone = new Promise((resolve) => live.on('disconnect', resolve));
    await operator('device', 'delete', device);
    await within(gone, 'the client learns that it is disconnected');
  });
});

async function refused(connectionString) {
  const client = Client.fromConnectionString(connectionString, Transport);
  client.setRetryPolicy(new NoRetry());
  await assert.rejects(within(client.open(), 'the refusal'), unauthorized);
}
