// Twins: get, report, desired changes, deletes, and what the limits refuse.
'use strict';

const assert = require('node:assert');
const { Inbox, prove, run, within, operator, operatorJSON, register, connect, deviceName } = require('./lib');

const device = deviceName('twin');
const report = (twin, patch) => within(new Promise((resolve, reject) =>
  twin.properties.reported.update(patch, (err) => (err ? reject(err) : resolve()))), 'the report');

run(async () => {
  const cs = await register(device);
  await operator('twin', 'update', device, '--desired', '{"interval":5,"nested":{"a":1,"b":[1,"two",null]},"when":"2026-01-31T08:00:00Z"}',
    '--tags', '{"site":"north"}').then(() => assert.fail('null in an array was accepted'), () => {});
  await operator('twin', 'update', device, '--desired', '{"interval":5,"nested":{"a":1,"b":[1,"two"]},"when":"2026-01-31T08:00:00Z"}',
    '--tags', '{"site":"north"}');
  const client = await connect(cs);
  const twin = await within(client.getTwin(), 'the twin');

  await prove('the twin shows what the operator wrote, and no tags', async () => {
    const { $version, ...desired } = twin.properties.desired;
    assert.strictEqual($version, 2);
    assert.deepStrictEqual(JSON.parse(JSON.stringify(desired)), { interval: 5, nested: { a: 1, b: [1, 'two'] }, when: '2026-01-31T08:00:00Z' });
    assert.strictEqual(twin.properties.reported.$version, 1);
    assert.strictEqual(twin.tags, undefined);
  });

  await prove('reported properties reach the hub and merge', async () => {
    await report(twin, { firmware: { version: '1.2.3', slots: { a: true } }, gone: 1 });
    await report(twin, { firmware: { slots: { b: false } }, gone: null });
    const { properties: { reported } } = await operatorJSON('twin', 'show', device);
    const { $version, $metadata, ...plain } = reported;
    assert.deepStrictEqual(plain, { firmware: { version: '1.2.3', slots: { a: true, b: false } } });
    assert.strictEqual($version, 3);
    assert.ok($metadata.firmware.slots.b.$lastUpdated);
  });

  await prove('desired changes come as they were made', async () => {
    const changes = new Inbox();
    twin.on('properties.desired', (delta) => changes.put(JSON.parse(JSON.stringify(delta))));
    await changes.take('the first event, with all properties');
    await operator('twin', 'update', device, '--desired', '{"interval":7,"nested":{"a":null}}');
    const delta = await changes.take('the change');
    assert.deepStrictEqual(delta, { interval: 7, nested: { a: null }, $version: 3 });
    assert.strictEqual(twin.properties.desired.interval, 7);
    assert.deepStrictEqual(Object.keys(twin.properties.desired.nested), ['b']);
  });

  await prove('a report with a forbidden key is refused whole', async () => {
    await assert.rejects(report(twin, { good: 1, 'bad.key': 2 }));
    const { properties: { reported } } = await operatorJSON('twin', 'show', device);
    assert.strictEqual(reported.good, undefined);
    assert.strictEqual(reported.$version, 3);
  });

  await prove('a report that is too large is refused, and the connection lives on', async () => {
    const large = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, 'x'.repeat(2000)]));
    await assert.rejects(report(twin, large));
    await report(twin, { after: true });
    const { properties: { reported } } = await operatorJSON('twin', 'show', device);
    assert.strictEqual(reported.after, true);
    assert.strictEqual(reported.k0, undefined);
  });

  await client.close();
});
