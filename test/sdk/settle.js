// A device settles messages over AMQP one by one: abandoned ones come again, rejected
// ones do not, and the sender hears of it.
'use strict';

const assert = require('node:assert');
const { Inbox, prove, run, within, operator, operatorJSON, until, register, connect, deviceName } = require('./lib');

const device = deviceName('settle');
const waiting = async () => (await operatorJSON('device', 'show', device)).cloudToDeviceMessageCount;

run(async () => {
  const client = await connect(await register(device));
  const inbox = new Inbox();
  client.on('message', (m) => inbox.put(m));
  const take = async (text) => {
    const m = await inbox.take(`the message "${text}"`);
    assert.strictEqual(m.getData().toString(), text);
    return m;
  };

  await prove('an abandoned message comes again', async () => {
    await operator('message', 'send', device, 'not now');
    const first = await take('not now');
    await within(client.abandon(first), 'the abandonment');
    const again = await take('not now');
    assert.strictEqual(again.messageId, first.messageId);
    assert.strictEqual(await waiting(), 1);
    await within(client.complete(again), 'the completion');
    await until('no message waits any more', async () => (await waiting()) === 0);
  });
  await prove('a rejected message is gone', async () => {
    await operator('message', 'send', device, 'never');
    await within(client.reject(await take('never')), 'the rejection');
    await until('no message waits any more', async () => (await waiting()) === 0);
  });
  await prove('messages are settled in any order', async () => {
    const texts = ['a', 'b', 'c', 'd'];
    for (const text of texts) await operator('message', 'send', device, text);
    const got = [];
    for (const text of texts) got.push(await take(text));
    for (const n of [2, 0, 3, 1]) await within(client.complete(got[n]), 'the completion');
    await until('no message waits any more', async () => (await waiting()) === 0);
  });
  await prove('an unsettled message comes again to the next client', async () => {
    await operator('message', 'send', device, 'kept');
    await take('kept');
    await client.close();
  });
});
