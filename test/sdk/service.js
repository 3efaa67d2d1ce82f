// The service SDK over HTTPS: registry, twins, methods and configuration content.
'use strict';

const assert = require('node:assert');
const { Registry, Client: ServiceClient, Twin } = require('azure-iothub');
const { prove, run, within, register, connect, deviceName } = require('./lib');

const device = `${deviceName('service')}`;
const body = ({ responseBody }) => responseBody;

run(async () => {
  const registry = Registry.fromConnectionString(process.env.SELVEDGE_HUB);
  const service = ServiceClient.fromConnectionString(process.env.SELVEDGE_HUB);
  const cs = await register(device);

  await prove('devices are created, read, changed, listed and deleted', async () => {
    const other = `${device}-other`;
    const made = body(await registry.create({ deviceId: other, status: 'enabled' }));
    assert.ok(made.authentication.symmetricKey.primaryKey);
    assert.ok(made.generationId && made.etag);
    await assert.rejects(registry.create({ deviceId: other }), (err) => err.name === 'DeviceAlreadyExistsError');
    made.status = 'disabled';
    made.statusReason = 'out of order';
    assert.strictEqual(body(await registry.update(made)).status, 'disabled');
    assert.strictEqual(body(await registry.get(other)).statusReason, 'out of order');
    const ids = body(await registry.list()).map((d) => d.deviceId);
    assert.ok(ids.includes(device) && ids.includes(other));
    await registry.delete(other);
    await assert.rejects(registry.get(other), (err) => err.name === 'DeviceNotFoundError');
  });

  await prove('devices are created and deleted in bulk', async () => {
    const many = Array.from({ length: 20 }, (_, n) => ({ deviceId: `${device}-bulk-${n}`, status: 'enabled' }));
    const added = body(await registry.addDevices(many));
    assert.strictEqual(added.isSuccessful, true);
    const gone = body(await registry.removeDevices(many, true));
    assert.strictEqual(gone.isSuccessful, true);
  });

  await prove('modules are created, listed and deleted', async () => {
    await registry.addModule({ deviceId: device, moduleId: 'm1' });
    const modules = body(await registry.getModulesOnDevice(device));
    assert.deepStrictEqual(modules.map((m) => m.moduleId), ['m1']);
    assert.ok(body(await registry.getModule(device, 'm1')).authentication.symmetricKey.primaryKey);
    await registry.removeModule(device, 'm1');
    assert.deepStrictEqual(body(await registry.getModulesOnDevice(device)), []);
  });

  const client = await connect(cs);
  await prove('a twin is read and changed by service and device', async () => {
    const twin = body(await registry.getTwin(device));
    assert.ok(twin instanceof Twin);
    await twin.update({ tags: { site: 'north' }, properties: { desired: { speed: 3 } } });
    assert.strictEqual(twin.properties.desired.speed, 3);
    assert.strictEqual(twin.tags.site, 'north');
    await assert.rejects(registry.updateTwin(device, { tags: { site: 'south' } }, 'AAAAAAAAAAE='), (err) => err.name === 'InvalidEtagError');
    const own = await within(client.getTwin(), 'the twin');
    assert.strictEqual(own.properties.desired.speed, 3);
  });

  await prove('a method is called and answered', async () => {
    client.onDeviceMethod('double', (request, response) => response.send(201, request.payload * 2, () => {}));
    const answer = await within(service.invokeDeviceMethod(device,
      { methodName: 'double', payload: 21, connectTimeoutInSeconds: 20, responseTimeoutInSeconds: 10 }), 'the answer');
    assert.deepStrictEqual(answer.result, { status: 201, payload: 42 });
  });

  await prove('content is applied to an edge device', async () => {
    const gateway = `${device}-gateway`;
    await registry.create({ deviceId: gateway, capabilities: { iotEdge: true } });
    await registry.applyConfigurationContentOnDevice(gateway, { modulesContent: {
      $edgeAgent: { 'properties.desired': { schemaVersion: '1.1', runtime: { type: 'docker', settings: {} },
        systemModules: { edgeAgent: { type: 'docker', settings: { image: 'a' } }, edgeHub: { type: 'docker', status: 'running', restartPolicy: 'always', settings: { image: 'b' } } },
        modules: {} } },
      $edgeHub: { 'properties.desired': { schemaVersion: '1.1', routes: {}, storeAndForwardConfiguration: { timeToLiveSecs: 7200 } } },
    } });
    const twin = body(await registry.getModuleTwin(gateway, '$edgeHub'));
    assert.strictEqual(twin.properties.desired.storeAndForwardConfiguration.timeToLiveSecs, 7200);
  });
  await client.close();
});
