// One connection an identity: the newcomer takes over, the old one learns that it is
// cut off, and a newcomer with a wrong key disturbs nobody.
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const { NoRetry } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { Transport, Inbox, prove, run, within, unauthorized, operator, register, connect, deviceName } = require('./lib');

const device = deviceName('takeover');

run(async () => {
  const cs = await register(device);
  const first = await connect(cs);
  let cut = false;
  const gone = new Promise((resolve) => first.on('disconnect', () => { cut = true; resolve(); }));

  await prove('a newcomer with a wrong key disturbs nobody', async () => {
    const stranger = Client.fromConnectionString(
      `HostName=hub.test;DeviceId=${device};SharedAccessKey=${crypto.randomBytes(32).toString('base64')}`, Transport);
    stranger.setRetryPolicy(new NoRetry());
    await assert.rejects(within(stranger.open(), 'the refusal'), unauthorized);
    await within(first.sendEvent(new Message('still here')), 'the acknowledgement');
    assert.strictEqual(cut, false);
  });

  const second = await connect(cs);
  await within(second.sendEvent(new Message('now me')), 'the acknowledgement'); // over AMQP it takes over with its first link
  await prove('the first client sees that it is disconnected', () => within(gone, 'the disconnect'));
  await prove('the second client has all', async () => {
    const inbox = new Inbox();
    second.on('message', (m) => inbox.put(m));
    await operator('message', 'send', device, 'for the second');
    const m = await inbox.take('the message');
    assert.strictEqual(m.getData().toString(), 'for the second');
    await within(second.complete(m), 'the completion');
    await within(second.sendEvent(new Message('from the second')), 'the acknowledgement');
  });
  await second.close();
});
