package client

import "fmt"

// Protocol is how a Client speaks with the server.
type Protocol uint8

// The protocols, with the ports that are theirs.
const (
	MQTT   Protocol = iota // 3.1.1 over TLS, 8883
	AMQP                   // 1.0 over TLS, 5671
	MQTTWS                 // MQTT over WebSocket, 443
	AMQPWS                 // AMQP over WebSocket, 443
)

var protocols = [...]struct{ name, port, env string }{
	MQTT:   {"mqtt", "8883", "MQTT"},
	AMQP:   {"amqp", "5671", "AMQP"},
	MQTTWS: {"mqtt-ws", "443", "HTTPS"},
	AMQPWS: {"amqp-ws", "443", "HTTPS"},
}

// String is the protocol's name in configurations: mqtt, amqp, mqtt-ws or amqp-ws.
func (p Protocol) String() string {
	if int(p) < len(protocols) {
		return protocols[p].name
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ParseProtocol reads what String writes.
func ParseProtocol(name string) (Protocol, error) {
	for p := range protocols {
		if protocols[p].name == name {
			return Protocol(p), nil
		}
	}
	return 0, fmt.Errorf("%q is no protocol; known are mqtt, amqp, mqtt-ws and amqp-ws", name)
}

func (p Protocol) isAMQP() bool      { return p == AMQP || p == AMQPWS }
func (p Protocol) isWebSocket() bool { return p == MQTTWS || p == AMQPWS }
