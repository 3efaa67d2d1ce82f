"""Qpid Proton, another foreign AMQP client: it proves a device with a token, sends, and
receives from the hub, over one link name for both directions."""

import base64
import hashlib
import hmac
import os
import sys
import time
import urllib.parse

from proton import Delivery, Message, SSLDomain, symbol
from proton.handlers import MessagingHandler
from proton.reactor import Container, LinkOption


class Named(LinkOption):
    """A link's name is its peer's, too: Proton has one name space for each direction."""

    def __init__(self, address):
        self.address = address

    def apply(self, link):
        for terminus in (link.source, link.target):
            terminus.address = self.address


class Device(MessagingHandler):
    """A device that sends bodies, and completes, gives back or rejects what comes."""

    def __init__(self, resource, token, bodies, fates):
        super().__init__(prefetch=10, auto_accept=False, auto_settle=False)
        self.resource, self.token, self.bodies, self.fates = resource, token, bodies, fates
        self.accepted = []
        self.sender = None

    def on_start(self, event):
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_trusted_ca_db(os.environ["CA"])
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
        self.connection = event.container.connect(os.environ["URL"], ssl_domain=domain, reconnect=False, heartbeat=20,
                                                  sasl_enabled=os.environ["SASL"] != "none", allowed_mechs="ANONYMOUS")
        self.answers = event.container.create_receiver(self.connection, "$cbs", name="cbs", options=Named("$cbs"))
        self.tokens = event.container.create_sender(self.connection, "$cbs", name="cbs", options=Named("$cbs"))

    def on_sendable(self, event):
        if event.sender == self.tokens and self.token:
            event.sender.send(Message(id=1, reply_to="$cbs", body=self.token, properties={
                "operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": self.resource}))
            self.token = None
        while event.sender == self.sender and self.bodies and event.sender.credit:
            body = self.bodies.pop(0)
            event.sender.send(Message(body=body.encode(), inferred=True, id=body, content_type="text/plain", content_encoding="utf-8",
                                      properties={"from": "proton"}, annotations={symbol("x-opt-odd"): 1}))

    def on_message(self, event):
        if event.receiver == self.answers:
            status = event.message.properties["status-code"]
            if status != 200 or event.message.correlation_id != 1:
                raise RuntimeError(f"the token is answered with {event.message}")
            event.delivery.update(Delivery.ACCEPTED)
            event.delivery.settle()
            path = self.resource.partition("/")[2]
            self.sender = event.container.create_sender(self.connection, f"/{path}/messages/events", name="link")
            event.container.create_receiver(self.connection, f"amqps://host/{path}/messages/deviceBound", name="link")
            return
        body = bytes(event.message.body).decode()
        print(f"received {body} {event.message.properties.get('site')} {int(event.message.annotations['iothub-deliverycount'])}", flush=True)
        event.delivery.update(self.fates.pop(0))
        event.delivery.settle()
        self.done()

    def on_accepted(self, event):
        if event.sender == self.sender:
            self.accepted.append(event.delivery.tag)
            print("accepted", flush=True)
            self.done()

    def done(self):
        if not self.fates and not self.bodies and len(self.accepted) == 3:
            self.connection.close()

    def on_rejected(self, event):
        raise RuntimeError(f"rejected: {event.delivery.remote.condition}")

    def on_link_error(self, event):
        raise RuntimeError(f"link: {event.link.remote_condition}")

    def on_transport_error(self, event):
        raise RuntimeError(f"transport: {event.transport.condition}")


def sign(resource, key):
    """A shared access signature for an hour."""
    escaped = urllib.parse.quote_plus(resource)
    expiry = int(time.time()) + 3600
    digest = hmac.new(base64.b64decode(key), f"{escaped}\n{expiry}".encode(), hashlib.sha256).digest()
    return f"SharedAccessSignature sr={escaped}&sig={urllib.parse.quote_plus(base64.b64encode(digest))}&se={expiry}"


def main():
    resource = f"{os.environ['HOST']}/devices/{os.environ['DEVICE']}"
    fates = [Delivery.RELEASED, Delivery.ACCEPTED, Delivery.REJECTED]
    Container(Device(resource, sign(resource, os.environ["KEY"]), ["one", "two", "three"], fates)).run()


if __name__ == "__main__":
    sys.exit(main())
