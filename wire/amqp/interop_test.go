package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	azure "github.com/Azure/go-amqp"
)

// dialAzure connects the go-amqp client to a server of ours.
func dialAzure(t *testing.T, cfg Config, o *azure.ConnOptions) *azure.Conn {
	t.Helper()
	a, b := socketPair(t)
	serve(t, a, cfg)
	c, err := azure.NewConn(deadline(t), b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func azureSession(t *testing.T, c *azure.Conn) *azure.Session {
	t.Helper()
	s, err := c.NewSession(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGoAMQPSends(t *testing.T) {
	got := make(chan *Message, 100)
	h := &testHandler{}
	h.receiver.OnDelivered = func(r *Receiver, d Delivery) {
		m := new(Message)
		if err := m.Decode(bytes.Clone(d.Payload)); err != nil {
			t.Error(err)
		}
		r.Settle(d.ID, State{Outcome: Accepted})
		got <- m
	}
	for _, frame := range []uint32{512, 4096, 65536, 1<<32 - 1} {
		t.Run(fmt.Sprint(frame), func(t *testing.T) {
			s := azureSession(t, dialAzure(t, Config{Handler: h, SASL: &SASLServer{}},
				&azure.ConnOptions{MaxFrameSize: frame, SASLType: azure.SASLTypeAnonymous()}))
			snd, err := s.NewSender(deadline(t), "/devices/d/messages/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{0, 256, 5000, 255 << 10} {
				body := bytes.Repeat([]byte("x"), size)
				if err := snd.Send(deadline(t), &azure.Message{
					Data:                  [][]byte{body},
					Properties:            &azure.MessageProperties{MessageID: uint64(7), To: new("there")},
					ApplicationProperties: map[string]any{"k": "v"},
				}, nil); err != nil {
					t.Fatal(err)
				}
				m := next(t, got)
				if !bytes.Equal(m.Body(), body) || m.Properties.MessageID != uint64(7) || m.Properties.To != "there" ||
					m.ApplicationProperties.Get("k") != "v" {
					t.Errorf("got %+v", m)
				}
			}
		})
	}
}

func TestGoAMQPOutcomes(t *testing.T) {
	h := &testHandler{}
	h.receiver.OnDelivered = func(r *Receiver, d Delivery) {
		r.Settle(d.ID, State{Outcome: Rejected, Error: &Error{ErrMessageSize, "too long", Map{{Symbol("k"), "v"}}}})
	}
	s := azureSession(t, dialAzure(t, Config{Handler: h}, nil))
	snd, err := s.NewSender(deadline(t), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	err = snd.Send(deadline(t), azure.NewMessage([]byte("m")), nil)
	if e, ok := errors.AsType[*azure.Error](err); !ok || e.Condition != azure.ErrCond(ErrMessageSize) || e.Info["k"] != "v" {
		t.Errorf("Send gives %v", err)
	}
}

func TestGoAMQPReceives(t *testing.T) {
	for _, mode := range []azure.ReceiverSettleMode{azure.ReceiverSettleModeFirst, azure.ReceiverSettleModeSecond} {
		t.Run(mode.String(), func(t *testing.T) {
			wantID := azure.UUID{1, 2}
			const count = 50
			outcomes := make(chan Disposition, count)
			var sentCount atomic.Int32
			h := &testHandler{}
			h.sender.OnReady = func(s *Sender) {
				for sentCount.Load() < count {
					tag := bytes.Repeat([]byte{byte(sentCount.Load())}, 16)
					m := Message{Data: [][]byte{bytes.Repeat([]byte("y"), 3000)}, Properties: Properties{CorrelationID: UUID{1, 2}}}
					if _, err := s.SendMessage(&m, Sending{Tag: tag, Ref: tag[0]}); err != nil {
						if !errors.Is(err, ErrNotReady) {
							t.Error(err)
						}
						return
					}
					sentCount.Add(1)
				}
			}
			h.sender.OnDisposed = func(s *Sender, d Disposition) {
				if !d.Settled {
					s.Settle(d.ID, State{Outcome: Accepted})
				}
				outcomes <- d
			}
			s := azureSession(t, dialAzure(t, Config{Handler: h}, &azure.ConnOptions{MaxFrameSize: 1024}))
			rcv, err := s.NewReceiver(deadline(t), "b", &azure.ReceiverOptions{
				Credit: 7, SettlementMode: &mode,
				Filters: []azure.LinkFilter{azure.NewSelectorFilter("amqp.annotation.x-opt-offset > '1'")},
			})
			if err != nil {
				t.Fatal(err)
			}
			if v := rcv.LinkSourceFilterValue("apache.org:selector-filter:string"); v != "amqp.annotation.x-opt-offset > '1'" {
				t.Errorf("the filter came back as %v", v)
			}
			for i := range count {
				m, err := rcv.Receive(deadline(t), nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(m.DeliveryTag) != 16 || m.DeliveryTag[0] != byte(i) || len(m.GetData()) != 3000 ||
					m.Properties.CorrelationID != any(wantID) {
					t.Fatalf("message %d is %+v", i, m)
				}
				want := Accepted
				switch i % 3 {
				case 0:
					err = rcv.AcceptMessage(deadline(t), m)
				case 1:
					want, err = Released, rcv.ReleaseMessage(deadline(t), m)
				case 2:
					want, err = Rejected, rcv.RejectMessage(deadline(t), m, &azure.Error{Condition: "c"})
				}
				if err != nil {
					t.Fatal(err)
				}
				d := next(t, outcomes)
				if d.State.Outcome != want || d.Ref != byte(i) || d.Settled == (mode == azure.ReceiverSettleModeSecond) {
					t.Errorf("outcome %d is %+v, want %v", i, d, want)
				}
			}
		})
	}
}

func TestGoAMQPRefused(t *testing.T) {
	h := &testHandler{attach: func(in *Incoming) {
		in.Refuse(&Error{Condition: ErrUnauthorized, Description: "no token"})
	}}
	s := azureSession(t, dialAzure(t, Config{Handler: h}, nil))
	_, err := s.NewSender(deadline(t), "a", nil)
	if e, ok := errors.AsType[*azure.Error](err); !ok || e.Condition != azure.ErrCondUnauthorizedAccess {
		t.Errorf("NewSender gives %v", err)
	}
	_, err = s.NewReceiver(deadline(t), "a", nil)
	if e, ok := errors.AsType[*azure.Error](err); !ok || e.Condition != azure.ErrCondUnauthorizedAccess {
		t.Errorf("NewReceiver gives %v", err)
	}
	if err := s.Close(deadline(t)); err != nil {
		t.Error(err)
	}
}

func TestGoAMQPPlain(t *testing.T) {
	var who Credentials
	sasl := &SASLServer{Authenticate: func(_ context.Context, k Credentials) error {
		if who = k; k.Password != "right" {
			return errors.New("wrong password")
		}
		return nil
	}}
	dialAzure(t, Config{SASL: sasl, Handler: &testHandler{}}, &azure.ConnOptions{SASLType: azure.SASLTypePlain("user@sas.hub", "right")})
	if who.Mechanism != Plain || who.Username != "user@sas.hub" {
		t.Errorf("credentials are %+v", who)
	}
	a, b := socketPair(t)
	wait := serve(t, a, Config{SASL: sasl})
	if _, err := azure.NewConn(deadline(t), b, &azure.ConnOptions{SASLType: azure.SASLTypePlain("u", "wrong")}); err == nil {
		t.Error("a wrong password is let in")
	}
	b.Close()
	if err := wait(); !errors.Is(err, ErrAuthentication) {
		t.Errorf("Serve gives %v", err)
	}
}

func TestGoAMQPDetachedWithError(t *testing.T) {
	links := make(chan *Receiver, 1)
	h := &testHandler{attach: func(in *Incoming) {
		r, err := in.Receiver(Accepting{}, Receiving{Window: 10}, ReceiverFuncs{})
		if err != nil {
			t.Error(err)
		}
		links <- r
	}}
	s := azureSession(t, dialAzure(t, Config{Handler: h}, nil))
	snd, err := s.NewSender(deadline(t), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := snd.Send(deadline(t), azure.NewMessage([]byte("m")), nil); err != nil {
		t.Fatal(err)
	}
	next(t, links).Detach(&Error{Condition: ErrLinkRedirect, Info: Map{{Symbol("hostname"), "h"}}})
	for err == nil {
		err = snd.Send(deadline(t), azure.NewMessage([]byte("m")), nil)
	}
	if e, ok := errors.AsType[*azure.LinkError](err); !ok || e.RemoteErr == nil || e.RemoteErr.Condition != azure.ErrCondLinkRedirect || e.RemoteErr.Info["hostname"] != "h" {
		t.Errorf("the link ended with %v", err)
	}
	// The session lives on.
	if _, err := s.NewSender(deadline(t), "b", nil); err != nil {
		t.Error(err)
	}
}
