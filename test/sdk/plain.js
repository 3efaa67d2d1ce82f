// A plain AMQP client, rhea, that knows nothing of Azure: without SASL and with, with
// frames of 512 bytes, with odd framing, with refused links, with many sessions.
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const fs = require('node:fs');
const tls = require('node:tls');
const rhea = require('rhea');
const { Inbox, prove, run, within, until, operator, operatorJSON, events, register, deviceName } = require('./lib');

const device = deviceName('plain');
const host = 'hub.test';

function token(cs, seconds = 3600) {
  const [, key] = cs.match(/SharedAccessKey=(.*)$/);
  const resource = encodeURIComponent(`${host}/devices/${device}`);
  const expiry = Math.floor(Date.now() / 1000) + seconds;
  const signature = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(`${resource}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}`;
}

// once waits for an event; what fails in the meantime fails it.
const once = (emitter, name, ...failures) => within(new Promise((resolve, reject) => {
  emitter.once(name, resolve);
  for (const failure of failures) emitter.once(failure, (c) => reject(c.error || c.connection?.error || new Error(failure)));
}), name);

async function connect(options = {}) {
  const container = rhea.create_container();
  container.on('error', () => {}); // whoever waits is told
  const connection = container.connect({ host, port: 5671, transport: 'tls', hostname: host, reconnect: false, ...options });
  await once(connection, 'connection_open', 'connection_error', 'disconnected');
  return connection;
}

// put puts a token on $cbs and gives the answer.
async function put(connection, text, id = 'first') {
  const from = connection.open_receiver({ source: '$cbs', credit_window: 1 });
  const to = connection.open_sender('$cbs');
  await once(to, 'sendable');
  const answer = once(from, 'message');
  to.send({ message_id: id, to: '$cbs', reply_to: 'cbs', body: text, application_properties: {
    operation: 'put-token', type: 'servicebus.windows.net:sastoken', name: `${host}/devices/${device}` } });
  const { message } = await answer;
  return message;
}

const telemetry = `/devices/${device}/messages/events`;

async function send(sender, message) {
  if (!sender.sendable()) await once(sender, 'sendable');
  const outcome = within(new Promise((resolve) => {
    sender.once('accepted', () => resolve('accepted'));
    sender.once('rejected', ({ delivery }) => resolve(delivery.remote_state.error.condition));
  }), 'the outcome');
  sender.send(message);
  return outcome;
}

run(async () => {
  const cs = await register(device);
  const arrived = events(device);

  await prove('without SASL, ids of the token link come back in their own types', async () => {
    const connection = await connect();
    for (const id of ['text', rhea.types.wrap_ulong(7), rhea.types.wrap_uuid(crypto.randomBytes(16))]) {
      const answer = await put(connection, token(cs), id);
      assert.strictEqual(answer.application_properties['status-code'], 200);
      assert.ok(answer.application_properties['status-description']);
      assert.deepStrictEqual(Buffer.isBuffer(answer.correlation_id) ? answer.correlation_id : `${answer.correlation_id}`,
        Buffer.isBuffer(id.value) ? id.value : `${id.value ?? id}`);
    }
    connection.close();
    await once(connection, 'connection_close');
  });
  for (const [what, options] of Object.entries({
    'ANONYMOUS': { username: 'anonymous' },
    'PLAIN with a token': { username: `${device}@sas.hub`, password: token(cs) },
  })) {
    await prove(`with SASL ${what}`, async () => {
      const connection = await connect(options);
      if (!options.password) assert.strictEqual((await put(connection, token(cs))).application_properties['status-code'], 200);
      const sender = connection.open_sender(telemetry);
      assert.strictEqual(await send(sender, { body: rhea.message.data_section(Buffer.from(what)) }), 'accepted');
      assert.strictEqual((await arrived.take('the message')).body, what);
      connection.close();
      await once(connection, 'connection_close');
    });
  }
  await prove('PLAIN with a wrong token is refused', async () => {
    await assert.rejects(connect({ username: `${device}@sas.hub`, password: token(cs).replace(/sig=[^&]*/, 'sig=AAAA') }));
  });

  await prove('frames of 512 bytes carry all both ways', async () => {
    const connection = await connect({ max_frame_size: 512 });
    await put(connection, token(cs));
    const sender = connection.open_sender(telemetry);
    const long = 'long '.repeat(20000);
    assert.strictEqual(await send(sender, { body: rhea.message.data_section(Buffer.from(long)), content_type: 'text/plain', content_encoding: 'utf-8' }), 'accepted');
    assert.strictEqual((await arrived.take('the long message')).body, long);
    const receiver = connection.open_receiver({ source: `/devices/${device}/messages/devicebound`, autoaccept: false });
    const coming = once(receiver, 'message');
    const letter = long.slice(0, 50000);
    await operator('message', 'send', device, letter);
    const { message, delivery } = await coming;
    assert.strictEqual(message.body.content.toString(), letter);
    assert.strictEqual(delivery.tag.length, 16);
    delivery.accept();
    await until('the message is gone', async () => (await operatorJSON('device', 'show', device)).cloudToDeviceMessageCount === 0);
    connection.close();
    await once(connection, 'connection_close');
  });

  await prove('links of others, of nothing and without a token are refused, one by one', async () => {
    const connection = await connect();
    const refused = async (address, open) => {
      const link = open(address);
      link.on('sender_error', () => {});
      link.on('receiver_error', () => {});
      await Promise.race([once(link, 'sender_close'), once(link, 'receiver_close')]);
      return link.error.condition;
    };
    const out = (address) => connection.open_sender(address);
    const into = (address) => connection.open_receiver(address);
    assert.strictEqual(await refused(telemetry, out), 'amqp:unauthorized-access');
    await put(connection, token(cs));
    assert.strictEqual(await refused('/devices/somebody/messages/events', out), 'amqp:unauthorized-access');
    assert.strictEqual(await refused('/devices', out), 'amqp:not-found');
    assert.strictEqual(await refused(telemetry, into), 'amqp:not-found');
    assert.strictEqual(await refused('/messages/serviceBound/feedback', into), 'amqp:unauthorized-access');
    const sender = out(telemetry.toUpperCase().replace(device.toUpperCase(), device));
    assert.strictEqual(await send(sender, { body: 'a string', message_id: 'after' }), 'accepted');
    assert.strictEqual((await arrived.take('the message')).systemProperties.messageId, 'after');
    assert.strictEqual(await send(sender, { body: rhea.message.data_section(Buffer.alloc(300 * 1024)) }), 'amqp:link:message-size-exceeded');
    assert.strictEqual(await send(sender, { body: rhea.message.data_section(Buffer.from('and on')) }), 'accepted');
    assert.strictEqual((await arrived.take('the last message')).body, 'and on');
    connection.close();
    await once(connection, 'connection_close');
  });

  await prove('a hundred sessions share a connection, and 5,000 messages are settled on one', async () => {
    const connection = await connect();
    await put(connection, token(cs));
    for (let n = 0; n < 100; n++) {
      const session = connection.create_session();
      session.open();
      assert.strictEqual(await send(session.open_sender(telemetry), { body: rhea.message.data_section(Buffer.from(`${n}`)) }), 'accepted');
      assert.strictEqual((await arrived.take(`message ${n}`)).body, `${n}`);
    }
    const sender = connection.open_sender(telemetry);
    let settled = 0;
    sender.on('settled', () => { settled++; });
    let sent = 0;
    const more = () => { for (; sent < 5000 && sender.sendable(); sent++) sender.send({ body: rhea.message.data_section(Buffer.from(`n${sent}`)) }); };
    sender.on('sendable', more);
    sender.on('settled', more);
    more();
    await until('all are settled', async () => settled === 5000);
    for (let n = 0; n < 5000; n++) assert.strictEqual((await arrived.take(`message ${n}`)).body, `n${n}`);
    connection.close();
    await once(connection, 'connection_close');
  });

  // Bytes in any pieces, and bytes that are no AMQP.
  const raw = async (write) => {
    const socket = tls.connect({ host, port: 5671, servername: host, ca: fs.readFileSync(process.env.NODE_EXTRA_CA_CERTS) });
    await once(socket, 'secureConnect', 'error');
    const chunks = [];
    socket.on('data', (b) => chunks.push(b));
    const end = once(socket, 'close');
    await write(socket);
    return { end, socket, bytes: () => Buffer.concat(chunks) };
  };
  const header = Buffer.from('AMQP\x00\x01\x00\x00', 'latin1');
  await prove('an open in single bytes is understood', async () => {
    const open = Buffer.from('0000001102000000005310c00401a10178', 'hex');
    const { socket, end, bytes } = await raw(async (s) => {
      s.setNoDelay(true);
      for (const b of Buffer.concat([header, open])) {
        await new Promise((resolve) => s.write(Buffer.of(b), resolve));
      }
    });
    await until('the server opens', async () => bytes().length > 30);
    assert.strictEqual(bytes().subarray(0, 8).toString('latin1'), header.toString('latin1'));
    assert.strictEqual(bytes()[8 + 10], 0x10);
    socket.end();
    await end;
  });
  for (const [what, bytes] of Object.entries({
    'another protocol': Buffer.from('GET / HTTP/1.1\r\nHost: hub.test\r\n\r\n'),
    'a version of its own': Buffer.from('AMQP\x00\x00\x09\x01', 'latin1'),
    'a frame of 2 GiB': Buffer.concat([header, Buffer.from('7fffffff02000000', 'hex')]),
    'a frame smaller than its header': Buffer.concat([header, Buffer.from('0000000402000000', 'hex')]),
    'a list within lists within lists': Buffer.concat([header, Buffer.from(`0000020902000000005310d0000001f400000001${'d0000001f400000001'.repeat(56)}`.padEnd(0x209 * 2, '40'), 'hex')]),
  })) {
    await prove(`${what} is shown out`, async () => {
      const { socket, end } = await raw(async (s) => { s.write(bytes); });
      socket.end();
      await end;
    });
  }
  arrived.close();
});
