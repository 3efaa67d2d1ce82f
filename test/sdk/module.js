// A module as developers write them: ModuleClient.fromEnvironment, nothing else told.
// What comes to input "in" goes to output "out"; it reports, and answers methods.
'use strict';

const { ModuleClient, Message } = require('azure-iot-device');
const { Transport } = require('./transport');

async function main() {
  const client = await ModuleClient.fromEnvironment(Transport);
  client.on('error', (err) => console.error('client error:', err));
  await client.open();

  client.on('inputMessage', async (input, m) => {
    await client.complete(m);
    const answer = new Message(m.getData());
    answer.contentType = m.contentType;
    answer.contentEncoding = m.contentEncoding;
    answer.messageId = m.messageId;
    answer.properties.add('input', input);
    for (const { key, value } of m.properties.propertyList) {
      if (!key.startsWith('$.')) answer.properties.add(key, value);
    }
    await client.sendOutputEvent('out', answer);
  });

  client.onMethod('send', async (request, response) => {
    const m = new Message(JSON.stringify(request.payload));
    m.contentType = 'application/json';
    m.contentEncoding = 'utf-8';
    m.messageId = `id ${request.payload.n}`;
    m.properties.add('from', process.env.IOTEDGE_MODULEID);
    await client.sendOutputEvent('ask', m);
    await response.send(200, { sent: request.payload });
  });

  const twin = await client.getTwin();
  twin.on('properties.desired', (delta) => {
    twin.properties.reported.update({ saw: { color: twin.properties.desired.color || null, version: delta.$version } },
      (err) => { if (err) console.error('report:', err); });
  });
  console.log('module ready');
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
