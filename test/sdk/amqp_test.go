package sdk

import (
	"testing"
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
