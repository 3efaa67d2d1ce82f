// Ids and method names with every character that Azure allows work everywhere.
'use strict';

const assert = require('node:assert');
const { Message } = require('azure-iot-device');
const { Inbox, prove, run, within, operator, operatorJSON, events, register, connect } = require('./lib');

// "+", "#" and "?" are allowed too, but MQTT and Azure's own URLs break with them.
const device = `Az09-.%_*!(),:=@$'-${process.env.TRANSPORT}`;

run(async () => {
  const client = await connect(await register(device));
  const arrived = events(device);

  await prove('telemetry of an odd id', async () => {
    await within(client.sendEvent(new Message('x')), 'the acknowledgement');
    assert.strictEqual((await arrived.take('the message at the hub')).deviceId, device);
  });
  await prove('messages to an odd id', async () => {
    const inbox = new Inbox();
    client.on('message', (m) => inbox.put(m));
    await operator('message', 'send', device, 'for you', '--property', 'Odd Näme/%=&#+=Välue/%=&#+');
    const m = await inbox.take('the message');
    assert.strictEqual(m.getData().toString(), 'for you');
    assert.ok(m.properties.propertyList.some(({ key, value }) => key === 'Odd Näme/%' && value === '&#+=Välue/%=&#+'));
    await within(client.complete(m), 'the completion');
  });
  await prove('twin of an odd id', async () => {
    await operator('twin', 'update', device, '--desired', '{"a":1}');
    assert.strictEqual((await within(client.getTwin(), 'the twin')).properties.desired.a, 1);
  });
  await prove('methods with odd names', async () => { // the SDK itself mangles ' | ^ and # in them
    for (const name of ['thermostat1*getMaxMinReport', 'a.b-c_d~e!f%g&h*i']) {
      client.onDeviceMethod(name, (request, response) => response.send(200, request.methodName, () => {}));
      assert.deepStrictEqual(await operatorJSON('method', 'invoke', device, name, '--connect-timeout', '20s'), { status: 200, payload: name });
    }
  });
  arrived.close();
  await client.close();
  await prove('deleting an odd id', () => operator('device', 'delete', device));
});
