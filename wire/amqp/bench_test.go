package amqp

import (
	"testing"
)

// Telemetry of 256 bytes over a pair of connections in this process, client and
// server together, each message settled by its own outcome.
func BenchmarkTelemetry(b *testing.B) {
	for name, batch := range map[string]bool{"settled one by one": false, "settled in batches": true} {
		b.Run(name, func(b *testing.B) {
			h := &testHandler{window: 2000}
			var server Handler = h
			h.receiver.OnDelivered = func(r *Receiver, d Delivery) { r.Settle(d.ID, State{Outcome: Accepted}) }
			if batch {
				w := &batching{}
				w.attach = func(in *Incoming) {
					w.receiver, _ = in.Receiver(Accepting{}, Receiving{Window: 2000}, ReceiverFuncs{
						OnDelivered: func(_ *Receiver, d Delivery) { w.pending = append(w.pending, d) },
					})
				}
				server = &settler{w}
			}
			c, _ := connect(b, Config{Handler: server}, Config{})
			done := make(chan struct{})
			settled, want := 0, 0
			snd, err := begin1(b, c).Sender(deadline(b), Attaching{}, SenderFuncs{OnDisposed: func(*Sender, Disposition) {
				if settled++; settled == want {
					close(done)
				}
			}})
			if err != nil {
				b.Fatal(err)
			}
			payload := make([]byte, 256)
			tag := make([]byte, 16)
			want = b.N
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, err := snd.SendWait(b.Context(), Sending{Tag: tag, Payload: payload}); err != nil {
					b.Fatal(err)
				}
			}
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// settler settles what came since the last call in one go.
type settler struct{ *batching }

func (s *settler) Idle(*Conn) {
	if n := len(s.pending); n > 0 {
		s.receiver.SettleRange(s.pending[0].ID, s.pending[n-1].ID, State{Outcome: Accepted})
		s.pending = s.pending[:0]
	}
}

// The Node SDK's way: a message, its outcome, the next message.
func BenchmarkRoundTrip(b *testing.B) {
	h := &testHandler{}
	h.receiver.OnDelivered = func(r *Receiver, d Delivery) { r.Settle(d.ID, State{Outcome: Accepted}) }
	c, _ := connect(b, Config{Handler: h}, Config{})
	done := make(chan struct{}, 1)
	snd, err := begin1(b, c).Sender(deadline(b), Attaching{}, SenderFuncs{OnDisposed: func(*Sender, Disposition) { done <- struct{}{} }})
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := snd.SendWait(b.Context(), Sending{Payload: payload}); err != nil {
			b.Fatal(err)
		}
		<-done
	}
}
