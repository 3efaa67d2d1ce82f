// Modules made with the real SDK run on a gateway as processes: output to input
// through a route, up to the hub, twins and methods.
'use strict';

const assert = require('node:assert');
const { prove, run, operator, operatorJSON, until, events } = require('./lib');

const gateway = process.env.GATEWAY;
const [probe, echo] = ['probe', 'echo'].map((name) => `${name}-${process.env.TRANSPORT}`);
const invoke = (module, name, payload) => operatorJSON('method', 'invoke', gateway, name, '-m', module,
  '--connect-timeout', '20s', '--payload', JSON.stringify(payload));
const reported = async (module) => (await operatorJSON('twin', 'show', gateway, '-m', module)).properties.reported;

run(async () => {
  const arrived = events(gateway);

  await prove('a method of a module is called through the gateway, and its output reaches another input and the hub', async () => {
    for (let n = 0; n < 5; n++) {
      const payload = { n, text: 'é & =' };
      assert.deepStrictEqual(await invoke(probe, 'send', payload), { status: 200, payload: { sent: payload } });
      const e = await arrived.take(`message ${n} at the hub`, ({ moduleId }) => moduleId === echo);
      assert.deepStrictEqual(e.body, payload);
      assert.strictEqual(e.deviceId, gateway);
      assert.deepStrictEqual(e.properties, { from: probe, input: 'in' });
      assert.strictEqual(e.systemProperties.messageId, `id ${n}`);
      assert.strictEqual(e.systemProperties.contentType, 'application/json');
    }
  });

  await prove('desired changes reach the module, and what it reports reaches the hub', async () => {
    await until('the module has reported its first twin', async () => (await reported(echo)).saw);
    for (const color of ['green', 'blue']) {
      await operator('twin', 'update', gateway, '-m', echo, '--desired', JSON.stringify({ color }));
      const { properties: { desired } } = await operatorJSON('twin', 'show', gateway, '-m', echo);
      await until(`the module has seen ${color}`, async () => {
        const { saw } = await reported(echo);
        return saw.color === color && saw.version === desired.$version;
      });
    }
  });

  await prove('the gateway reports its modules as running', () => until('both run', async () => {
    const { modules } = await reported('$edgeAgent');
    return [probe, echo].every((m) => modules[m].runtimeStatus === 'running' && modules[m].type === 'process');
  }));
  arrived.close();
});
