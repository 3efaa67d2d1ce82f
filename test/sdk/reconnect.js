// A client with the SDK's own retries renews its token and outlives a hub that is
// killed and started again: what it listened for still comes.
'use strict';

const assert = require('node:assert');
const { Client, Message } = require('azure-iot-device');
const { SharedAccessSignature } = require('azure-iot-common');
const { Transport, Inbox, ask, prove, run, within, events, operator, operatorJSON, register, connect, deviceName } = require('./lib');

const device = deviceName('reconnect');

// sign makes a token as an application with its own key store would.
function sign(cs, seconds) {
  const [, host] = cs.match(/HostName=([^;]*)/);
  const [, key] = cs.match(/SharedAccessKey=(.*)$/);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  return SharedAccessSignature.create(encodeURIComponent(`${host}/devices/${device}`), null, key, expiry).toString();
}

const send = (client, text) => within(client.sendEvent(new Message(text)), `the acknowledgement of "${text}"`);

// usable shows that telemetry, messages and methods work.
async function usable(client, inbox, when) {
  await send(client, when);
  await operator('message', 'send', device, when);
  const m = await inbox.take(`the message ${when}`, (c) => c.getData().toString() === when);
  await within(client.complete(m), 'the completion');
  const answer = await operatorJSON('method', 'invoke', device, 'when', '--connect-timeout', '20s', '--payload', JSON.stringify(when));
  assert.deepStrictEqual(answer, { status: 200, payload: when });
}

function listen(client) {
  const inbox = new Inbox();
  client.on('message', (m) => inbox.put(m));
  client.onDeviceMethod('when', (request, response) => response.send(200, request.payload, () => {}));
  return inbox;
}

run(async () => {
  const cs = await register(device);
  const arrived = events(device);
  {
    const client = Client.fromSharedAccessSignature(sign(cs, 3600), Transport);
    await within(client.open(), 'the client connects');
    const inbox = listen(client);
    await prove('a client with a token works', () => usable(client, inbox, 'before'));
    await prove('it works on with a new token, given by the application', async () => {
      await within(new Promise((resolve, reject) => {
        client.updateSharedAccessSignature(sign(cs, 7200), (err) => (err ? reject(err) : resolve()));
      }), 'the renewal');
      await usable(client, inbox, 'renewed');
    });
    await client.close();
  }
  {
    const client = await connect(cs, { retry: true });
    const inbox = listen(client);
    await usable(client, inbox, 'with a key');
    await prove('it works on with a new token that the SDK made, every second', async () => {
      let connects = 0;
      client.on('connect', () => { connects++; });
      await within(client.setOptions({ tokenRenewal: { tokenValidTimeInSeconds: 3, tokenRenewalMarginInSeconds: 2 } }), 'the options');
      for (let n = 0; n < 3; n++) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        await usable(client, inbox, `renewed by itself ${n}`);
      }
      await within(client.setOptions({ tokenRenewal: { tokenValidTimeInSeconds: 3600, tokenRenewalMarginInSeconds: 600 } }), 'the options');
    });
    await prove('it outlives a hub that is killed and started again', async () => {
      await usable(client, inbox, 'before the kill');
      await ask('kill the hub and start it again');
      await usable(client, inbox, 'after the kill');
    });
    await prove('it outlives a hub that is stopped and started again', async () => {
      await ask('stop the hub and start it again');
      await usable(client, inbox, 'after the stop');
    });
    await client.close();
  }
  arrived.close();
  await prove('all that was acknowledged is at the hub', async () => {
    const all = events(device);
    for (const text of ['before', 'renewed', 'with a key', 'before the kill', 'after the kill', 'after the stop']) {
      await all.take(`the message "${text}"`, (e) => e.body === text);
    }
    all.close();
  });
});
