package amqp

import "testing"

// The Node SDK takes 45 s to see that it is disconnected when its sessions do not end
// before the connection does, and does not come back after connection:forced.
func TestSessionsEndBeforeConnection(t *testing.T) {
	for _, test := range []struct {
		name string
		why  *Error
		want []string
	}{
		{"without an error", nil, []string{"end", "end", "close"}},
		{"refused", &Error{Condition: ErrUnauthorized},
			[]string{"end amqp:unauthorized-access", "end amqp:unauthorized-access", "close amqp:unauthorized-access"}},
		{"shutting down", &Error{Condition: ErrConnectionForced},
			[]string{"end amqp:link:detach-forced", "end amqp:link:detach-forced", "close amqp:connection:forced"}},
		{"more than a frame holds", &Error{Condition: ErrInternal, Info: Map{{Symbol("why"), make([]byte, 1000)}}},
			[]string{"end amqp:internal-error", "end amqp:internal-error", "close amqp:internal-error"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			opened := make(chan *Conn, 1)
			p, wait := dialRaw(t, Config{Handler: &testHandler{open: func(c *Conn, _ *Open) error { opened <- c; return nil }}})
			p.begin(0, 10)
			p.begin(7, 10)
			p.attachSender(7, "s", 0)
			p.until("flow")
			next(t, opened).Close(test.why)
			p.expect(test.want...)
			p.ending(0, descEnd) // answers that cross the close, or not
			p.ending(0, descClose)
			if err := wait(); condition(err) != condition(errOrNil(test.why)) {
				t.Errorf("Serve gives %v", err)
			}
		})
	}
	noGoroutines(t)
}

func errOrNil(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}
