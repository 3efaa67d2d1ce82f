package e2e

import (
	"errors"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// TestOrderedFaults uses the properties by which the SDKs' own suites break their
// connections.
func TestOrderedFaults(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{Args: []string{"--test-faults"}})
	order := func(c *rig.Client, device, kind string) {
		t.Helper()
		topic := "devices/" + device + "/messages/events/AzIoTHub_FaultOperationType=" + kind +
			"&AzIoTHub_FaultOperationCloseReason=boom&AzIoTHub_FaultOperationDelayInSecs=0&AzIoTHub_FaultOperationDurationInSecs=2"
		if _, err := c.Send(topic, nil); err != nil {
			t.Fatal(err)
		}
	}
	for kind, code := range map[string]mqtt.Code{"KillTcp": mqtt.RefusedUnavailable, "ShutDownMqtt": mqtt.RefusedUnavailable,
		"InvokeAuthError": mqtt.RefusedNotAuthorized} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			id := h.Device(t, "device-"+kind)
			c := dial(t, id)
			order(c, id.Device, kind)
			c.AwaitClose(t, 5*time.Second)
			_, err := rig.Dial(t.Context(), id)
			if refusal, ok := errors.AsType[rig.Refusal](err); !ok || refusal != rig.Refusal(code) {
				t.Errorf("while the fault lasts, CONNECT is answered %v, want CONNACK %d", err, code)
			}
			rig.Eventually(t, "the fault is over", func() bool {
				again, err := rig.Dial(t.Context(), id)
				if err != nil {
					return false
				}
				defer again.Close()
				send(t, again, "devices/"+id.Device+"/messages/events/", "after")
				return true
			})
		})
	}
	for _, kind := range []string{"InvokeThrottling", "InvokeMaxMessageQuota"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			id := h.Device(t, "device-"+kind)
			c := dial(t, id)
			order(c, id.Device, kind)
			rig.Eventually(t, "telemetry is refused", func() bool { // by ending the connection
				again, err := rig.Dial(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				defer again.Drop()
				pid, err := again.Send("devices/"+id.Device+"/messages/events/", []byte("x"))
				return err != nil || again.AwaitAck(pid, rig.Patience) != nil
			})
			rig.Eventually(t, "the fault is over", func() bool {
				again, err := rig.Dial(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				defer again.Drop()
				pid, err := again.Send("devices/"+id.Device+"/messages/events/", []byte("x"))
				return err == nil && again.AwaitAck(pid, rig.Patience) == nil
			})
		})
	}
}

// TestFaultsAreOffByDefault: without the switch, orders are telemetry like any other.
func TestFaultsAreOffByDefault(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	c := dial(t, h.Device(t, "calm"))
	send(t, c, "devices/calm/messages/events/AzIoTHub_FaultOperationType=KillTcp&AzIoTHub_FaultOperationDelayInSecs=0", "x")
	send(t, c, "devices/calm/messages/events/", "y")
	select {
	case e := <-h.Events(t, "--device", "calm"):
		if e.Properties["AzIoTHub_FaultOperationType"] != "KillTcp" {
			t.Errorf("the message came with %v", e.Properties)
		}
	case <-time.After(rig.Patience):
		t.Fatal("the message did not arrive")
	}
}
