package server

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// ordering is a message that orders a fault.
func ordering(kind, delay, duration string) []message.Message {
	return []message.Message{*text("x"), {Body: []byte("boom"), Properties: []message.Property{
		{Name: faultType, Value: kind}, {Name: faultReason, Value: "boom"},
		{Name: faultDelay, Value: delay}, {Name: faultDuration, Value: duration},
	}}}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		kind                  string
		closes                bool
		connecting, telemetry fault.Code
	}{
		{"KillTcp", true, fault.Unavailable, 0},
		{"ShutDownMqtt", true, fault.Unavailable, 0},
		{"InvokeThrottling", false, 0, fault.Throttled},
		{"InvokeMaxMessageQuota", false, 0, fault.QuotaExceeded},
		{"InvokeAuthError", true, fault.Unauthorized, fault.Unauthorized},
		{"KillAmqpCBSLinkReq", true, 0, 0},
		{"KillAmqpc2dLink", true, 0, 0},
		{"KillPigeon", false, 0, 0},
	} {
		t.Run(c.kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := 0
				f := newFaults(func(id ident.ID, kind string, reason error) {
					closed++
					if id != pump || kind != c.kind || !fault.Is(reason, fault.ClosedOnFaultInjection) {
						t.Errorf("closed %s with %v", id, reason)
					}
				}, slog.New(slog.DiscardHandler))
				defer f.stop()
				check := func(when string, connecting, telemetry fault.Code) {
					t.Helper()
					if err := f.connect(pump); fault.CodeOf(err) != connecting {
						t.Errorf("%s: connecting gives %v", when, err)
					}
					if err := f.telemetry(pump, []message.Message{*text("x")}); fault.CodeOf(err) != telemetry {
						t.Errorf("%s: telemetry gives %v", when, err)
					}
					if f.connect(valve) != nil || f.telemetry(valve, nil) != nil {
						t.Errorf("%s: others are concerned", when)
					}
				}
				if err := f.telemetry(pump, ordering(c.kind, "2", "5")); err != nil {
					t.Errorf("the order itself: %v", err)
				}
				time.Sleep(time.Second)
				check("before", 0, 0)
				time.Sleep(2 * time.Second)
				check("meanwhile", c.connecting, c.telemetry)
				time.Sleep(5 * time.Second)
				check("after", 0, 0)
				if (closed == 1) != c.closes {
					t.Errorf("closed %d times", closed)
				}
				if len(f.orders) != 0 {
					t.Error("an order is left behind")
				}
			})
		})
	}
}

// An order that cannot be read is one without delay.
func TestFaultTimes(t *testing.T) {
	for delay, want := range map[string]time.Duration{"": 0, "x": 0, "-1": 0, "NaN": 0, "0.5": time.Second / 2, "1": time.Second, "1e9": maxFaultTime} {
		o, ok := orderOf(&ordering("KillTcp", delay, "1")[1])
		if !ok || o.delay != want || o.duration != time.Second {
			t.Errorf("%q: %+v", delay, o)
		}
	}
	if _, ok := orderOf(text("x")); ok {
		t.Error("an order out of nothing")
	}
}

func TestOrderedFaultCutsTheConnection(t *testing.T) {
	h := startHub(t, func(c *Config) { c.TestFaults = true })
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	c.Publish(ordering("KillTcp", "0", "0")[1:], func(error) {}) // it may die before the acknowledgement
	ended(t, c)
}

func TestFaultsNeedTheSwitch(t *testing.T) {
	h := startHub(t, nil)
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	order := ordering("KillTcp", "0", "0")[1]
	for range 3 {
		if err := c.Send(t.Context(), &order); err != nil {
			t.Fatal(err)
		}
	}
}
