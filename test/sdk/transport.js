// The transport that the test wants.
'use strict';

const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');

exports.Transport = { mqtt: Mqtt, 'mqtt-ws': MqttWs }[process.env.TRANSPORT];
