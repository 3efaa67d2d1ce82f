package amqphead

import (
	"context"
	"errors"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
)

// TestBreak: each fault ends the links that it names, and no others.
func TestBreak(t *testing.T) {
	boom := fault.New(fault.ClosedOnFaultInjection, "boom")
	const all = "killed all"
	for kind, want := range map[string]string{
		"KillAmqpD2CLink": "d2c", "KillAmqpc2dLink": "c2d", "KillAmqpTwinLinkReq": "twin in", "KillAmqpTwinLinkResp": "twin out",
		"KillAmqpMethodReqLink": "method out", "KillAmqpMethodRespLink": "method in", "KillAmqpCBSLinkReq": "cbs in", "KillAmqpCBSLinkResp": "cbs out",
		"KillAmqpSession": all, "KillAmqpConnection": all, "ShutDownAmqp": all, "KillTcp": all, "ShutDownMqtt": "",
	} {
		t.Run(kind, func(t *testing.T) {
			r := serve(t, &headtest.Backend{})
			c := r.dial(nil)
			x := c.cbs()
			if code, text, _ := x.put("1", "", tokenFor(dev)); code != 200 {
				t.Fatal(text)
			}
			links := map[string]func() error{"cbs in": sends(t, x.out), "cbs out": receives(t, x.in)}
			for name, address := range map[string]string{"d2c": "messages/events", "twin in": "twin", "method in": "methods/devicebound"} {
				links[name] = sends(t, c.sender("devices/dev/"+address, nil))
			}
			for name, address := range map[string]string{"c2d": "messages/devicebound", "twin out": "twin", "method out": "methods/devicebound"} {
				links[name] = receives(t, c.receiver("devices/dev/"+address, nil))
			}
			a := r.b.AwaitOpen(t, dev, head.Methods)
			if known := a.Device.(head.Breaker).Break(kind, boom); known != (want != "") {
				t.Fatalf("known: %v", known)
			}
			if want == all {
				r.b.AwaitGone(t, dev)
				return
			}
			for name, ended := range links {
				if name == want {
					awaitThat(t, name+" to end", func() bool { return conditionOfErr(ended()) == "amqp:link:detach-forced" })
				}
			}
			for name, ended := range links {
				if err := ended(); err != nil && name != want {
					t.Errorf("%s ended with %v", name, err)
				}
			}
		})
	}
}

// sends and receives give the error that a link ended with, nil while it lives.
func sends(t *testing.T, s *azure.Sender) func() error {
	return func() error {
		ctx, cancel := contextFor(t)
		defer cancel()
		return alive(s.Send(ctx, &azure.Message{Data: [][]byte{{}}}, &azure.SendOptions{Settled: false}))
	}
}

func receives(t *testing.T, r *azure.Receiver) func() error {
	return func() error {
		ctx, cancel := contextFor(t)
		defer cancel()
		m, err := r.Receive(ctx, nil)
		if m != nil {
			r.AcceptMessage(ctx, m)
		}
		return alive(err)
	}
}

const blink = 20 * time.Millisecond

func contextFor(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), blink)
}

// alive takes the time-out of one who waits for nothing for a sign of life, and a
// rejection for one as well.
func alive(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if e, ok := errors.AsType[*azure.Error](err); ok && e.Condition == "com.microsoft:argument-error" {
		return nil
	}
	return err
}
