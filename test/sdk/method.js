// Direct methods: payloads both ways, statuses, silence and absence.
'use strict';

const assert = require('node:assert');
const { prove, run, operator, operatorJSON, register, connect, deviceName } = require('./lib');

const device = deviceName('method');
const invoke = (name, ...more) => operatorJSON('method', 'invoke', device, name, ...more);

run(async () => {
  const cs = await register(device);

  await prove('a device that is away is not online', () =>
    assert.rejects(invoke('echo'), /DeviceNotOnline/));

  const client = await connect(cs);
  await prove('a device that does not listen is not online', () =>
    assert.rejects(invoke('echo'), /DeviceNotOnline/));

  client.onDeviceMethod('echo', (request, response) => response.send(200, { got: request.payload, name: request.methodName }, () => {}));
  client.onDeviceMethod('status', (_request, response) => response.send(418, () => {}));
  client.onDeviceMethod('silent', () => {});

  await prove('a method is called once the device listens', async () => {
    const answer = await invoke('echo', '--connect-timeout', '20s', '--payload', '{"rpm":900,"when":"2026-01-31T08:00:00Z"}');
    assert.deepStrictEqual(answer, { status: 200, payload: { got: { rpm: 900, when: '2026-01-31T08:00:00Z' }, name: 'echo' } });
  });
  await prove('any JSON goes there and back', async () => {
    for (const payload of ['null', 'true', '7.25', '"text é"', '[1,[2],{"a":null}]', '{}']) {
      const answer = await invoke('echo', '--payload', payload);
      assert.deepStrictEqual(answer.payload.got, JSON.parse(payload));
    }
    assert.strictEqual((await invoke('echo')).payload.got, null);
  });
  await prove('a status of its own and no payload come back', async () => {
    assert.deepStrictEqual(await invoke('status'), { status: 418, payload: null });
  });
  await prove('twenty calls at once are told apart', async () => {
    const calls = Array.from({ length: 20 }, (_, n) => invoke('echo', '--payload', `${n}`));
    const answers = await Promise.all(calls);
    answers.forEach((answer, n) => assert.strictEqual(answer.payload.got, n));
  });
  await prove('silence is a time-out', () =>
    assert.rejects(invoke('silent', '--response-timeout', '5s'), /GatewayTimeout/));
  await client.close();
  await prove('a device that has left is not online', () =>
    assert.rejects(operator('method', 'invoke', device, 'echo'), /DeviceNotOnline/));
});
