// Cloud-to-device messages come with all they were sent with, are completed, and wait
// for a device that is away.
'use strict';

const assert = require('node:assert');
const { Inbox, prove, run, within, operator, operatorJSON, until, register, connect, deviceName } = require('./lib');

const device = deviceName('c2d');
const waiting = async () => (await operatorJSON('device', 'show', device)).cloudToDeviceMessageCount;

// receive collects the messages of a client.
function receive(client) {
  const inbox = new Inbox();
  client.on('message', (m) => inbox.put(m));
  return inbox;
}

run(async () => {
  const cs = await register(device);
  let client = await connect(cs);
  let inbox = receive(client);

  await prove('a message comes and is completed', async () => {
    await operator('message', 'send', device, 'open the valve', '--message-id', 'm 1/é', '--content-type', 'text/plain',
      '--property', 'theSite=north & south', '--property', 'empty=');
    const m = await inbox.take('the message');
    assert.strictEqual(m.getData().toString(), 'open the valve');
    assert.strictEqual(m.messageId, 'm 1/é');
    assert.strictEqual(m.contentType, 'text/plain');
    assert.strictEqual(m.to, `/devices/${device}/messages/devicebound`);
    const own = Object.fromEntries(m.properties.propertyList.map(({ key, value }) => [key, value]));
    assert.strictEqual(own.theSite, 'north & south');
    assert.strictEqual(own.empty, '');
    await within(client.complete(m), 'the completion');
    await until('no message waits any more', async () => (await waiting()) === 0);
  });

  await prove('what was sent while it was away comes when it is back, in order', async () => {
    await client.close();
    for (const n of [1, 2, 3]) await operator('message', 'send', device, `while away ${n}`);
    assert.strictEqual(await waiting(), 3);
    client = await connect(cs);
    inbox = receive(client);
    for (const n of [1, 2, 3]) {
      const m = await inbox.take(`message ${n}`);
      assert.strictEqual(m.getData().toString(), `while away ${n}`);
      await within(client.complete(m), 'the completion');
    }
    await until('no message waits any more', async () => (await waiting()) === 0);
  });

  await prove('a message that nobody wants in time is dropped', async () => {
    await client.close();
    await operator('message', 'send', device, 'too late', '--ttl', '1s');
    await until('the message has expired', async () => (await waiting()) === 0);
    await operator('message', 'send', device, 'in time');
    client = await connect(cs);
    inbox = receive(client);
    const m = await inbox.take('the message');
    assert.strictEqual(m.getData().toString(), 'in time');
    await within(client.complete(m), 'the completion');
  });
  await client.close();
});
