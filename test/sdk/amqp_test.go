package sdk

import (
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/test/rig"
)

// TestDeviceAMQP is TestDevice over AMQP.
func TestDeviceAMQP(t *testing.T) {
	h := startHub(t)
	certificate := selfSigned(t)
	for _, transport := range []string{"amqp", "amqp-ws"} {
		for _, auth := range []string{"sas", "x509"} {
			for _, name := range []string{"connect", "telemetry", "c2d", "settle", "twin", "method", "takeover", "names"} {
				if auth == "x509" && name != "connect" && name != "telemetry" && name != "c2d" {
					continue // the rest is the same once connected
				}
				t.Run(name+"/"+transport+"/"+auth, func(t *testing.T) {
					t.Parallel() // each script has its own device
					s := start(t, h, name+".js", append(certificate, "TRANSPORT="+transport, "AUTH="+auth)...)
					s.finish(t)
				})
			}
		}
	}
}

// TestAcross takes over from one protocol to another.
func TestAcross(t *testing.T) {
	s := start(t, startHub(t), "across.js", "TRANSPORT=any", "AUTH=sas")
	s.finish(t)
}

// TestServiceAMQP is what services do over AMQP, and plain AMQP.
func TestServiceAMQP(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{Host: hubName, MQTT: hubIP + ":8883", AMQP: hubIP + ":5671", HTTPS: hubIP + ":443",
		Args: []string{"--consumer-group", "second", "--twin-events"}})
	stream := rig.Run(t, nil, "hub", "connection-string", "--event-hub", "--data", h.Dir, "--hostname", hubName).Must(t)
	for _, transport := range []string{"amqp", "amqp-ws"} {
		for _, name := range []string{"messages", "eventhub", "plain"} {
			if name == "plain" && transport != "amqp" {
				continue // it is about bytes
			}
			t.Run(name+"/"+transport, func(t *testing.T) {
				s := start(t, h, name+".js", "TRANSPORT="+transport, "AUTH=sas", "EVENT_HUB="+strings.TrimSpace(stream))
				s.finish(t)
			})
		}
	}
}
