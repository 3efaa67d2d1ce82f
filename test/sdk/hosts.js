// Loaded before a script (NODE_OPTIONS=--require): names in TEST_HOSTS, such as
// "hub.test=127.0.0.1 gateway.test=127.0.0.3", resolve to loopback addresses, as DNS
// would do for real hosts. The SDKs are not touched.
'use strict';

const dns = require('node:dns');

const hosts = new Map((process.env.TEST_HOSTS || '').split(' ').filter(Boolean).map((pair) => pair.split('=')));
const lookup = dns.lookup;

dns.lookup = function (name, options, callback) {
  const address = hosts.get(name);
  if (!address) return lookup.apply(dns, arguments);
  if (typeof options === 'function') {
    callback = options;
    options = {};
  }
  const all = typeof options === 'object' && options !== null && options.all;
  process.nextTick(() => (all ? callback(null, [{ address, family: 4 }]) : callback(null, address, 4)));
};
