package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// run runs s until the returned function, or the test's end, stops it.
func run(t testing.TB, s *Session) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := wait(t, "the end of Run", done); err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

var errCut = errors.New("cut by the test")

// TestSessionSendsAgain loses the connection with messages under way.
func TestSessionSendsAgain(t *testing.T) { eachProtocol(t, testSessionSendsAgain) }

func testSessionSendsAgain(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{Hold: true})
	s := NewSession(r.config(mod))
	run(t, s)
	done := make(chan string, 3)
	for i, words := range []string{"a b", "c", "d e f"} {
		if err := s.Publish(within(t), texts(words), func(err error) { done <- fmt.Sprint(i, err) }); err != nil {
			t.Fatal(err)
		}
	}
	r.b.Messages(t, 6)
	r.b.Attached(t, mod).Device.Close(errCut)
	if got := bodies(r.b.Messages(t, 12)); got != "a b c d e f a b c d e f" {
		t.Errorf("arrived: %s", got)
	}
	r.b.Release(r.b.Held(), nil)
	for i := range 3 {
		if got, want := wait(t, "done", done), fmt.Sprint(i, nil); got != want {
			t.Errorf("done call %d was %s", i, got)
		}
	}
}

// TestSessionTriesAgain is refused at first, in both ways there are.
func TestSessionTriesAgain(t *testing.T) { eachProtocol(t, testSessionTriesAgain) }

func testSessionTriesAgain(t *testing.T, p Protocol) {
	var mu sync.Mutex
	tries := 0
	r := serveBy(t, p, &headtest.Backend{Judge: func(c *ident.Claim) (*ident.Principal, error) {
		mu.Lock()
		defer mu.Unlock()
		switch tries++; tries {
		case 1:
			return nil, fault.New(fault.Unavailable, "not yet")
		case 2:
			return nil, fault.New(fault.Unauthorized, "not yet")
		}
		return &ident.Principal{ID: c.ID}, nil
	}})
	s := NewSession(r.config(dev))
	sent := make(chan error, 1)
	go func() { // before Run, or just after
		m := text("x")
		sent <- s.Send(within(t), &m)
	}()
	run(t, s)
	if err := wait(t, "Send", sent); err != nil {
		t.Error(err)
	}
	want := 3
	if p.isAMQP() {
		want++ // that one's link is judged, too
	}
	if got := len(r.b.Claims()); got != want {
		t.Errorf("%d claims, want %d", got, want)
	}
}

func TestSessionRunsOnlyWithConfig(t *testing.T) {
	if err := NewSession(Config{}).Run(within(t)); err == nil {
		t.Error("Run() = nil without a host")
	}
}

func TestSessionBounds(t *testing.T) {
	cfg := Config{Host: host, ID: dev, Window: 2, Credentials: SharedKey(key, "")}
	s := NewSession(cfg) // which does not run
	ctx, cancel := context.WithCancel(within(t))
	fail := func(err error) { t.Errorf("done(%v) of a batch that was given up or not taken", err) }
	if err := s.Publish(ctx, texts("a b"), func(error) {}); err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	go func() { taken <- s.Publish(ctx, texts("c"), fail) }()
	cancel()
	if err := wait(t, "Publish", taken); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish() = %v beyond the window", err)
	}
	large := []message.Message{{Body: make([]byte, message.MaxTelemetry+1)}}
	if err := s.Publish(within(t), large, fail); !fault.Is(err, fault.MessageTooLarge) {
		t.Errorf("Publish() = %v of a message that is too large", err)
	}
}

// TestSessionGivesUp checks that a message nobody waits for is not sent later.
func TestSessionGivesUp(t *testing.T) { eachProtocol(t, testSessionGivesUp) }

func testSessionGivesUp(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	s := NewSession(r.config(dev))
	ctx, cancel := context.WithCancel(within(t))
	sent := make(chan error, 1)
	go func() {
		m := text("given up")
		sent <- s.Send(ctx, &m)
	}()
	cancel()
	if err := wait(t, "Send", sent); !errors.Is(err, context.Canceled) {
		t.Errorf("Send() = %v", err)
	}
	run(t, s)
	m := text("kept")
	if err := s.Send(within(t), &m); err != nil {
		t.Fatal(err)
	}
	if got := bodies(r.b.Messages(t, 1)); got != "kept" {
		t.Errorf("arrived: %s", got)
	}
}

func TestSessionEnds(t *testing.T) { eachProtocol(t, testSessionEnds) }

func testSessionEnds(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{Hold: true})
	s := NewSession(r.config(dev))
	stop := run(t, s)
	done := make(chan error, 1)
	if err := s.Publish(within(t), texts("a"), func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	r.b.Messages(t, 1)
	stop()
	if err := wait(t, "done", done); err != ErrClosed {
		t.Errorf("done(%v)", err)
	}
	m := text("b")
	if err := s.Send(within(t), &m); err != ErrClosed {
		t.Errorf("Send() = %v after Run", err)
	}
	if _, err := s.Twin(within(t)); err != ErrClosed {
		t.Errorf("Twin() = %v after Run", err)
	}
	r.b.AwaitGone(t, dev)
}

// TestSessionComesBack checks that every handler works on every connection.
func TestSessionComesBack(t *testing.T) { eachProtocol(t, testSessionComesBack) }

func testSessionComesBack(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	r.b.Desire(t, mod, `{"a":1,"b":1}`)
	s := NewSession(r.config(mod))
	desired := make(chan string, 10)
	taken := make(chan string, 10)
	s.OnDesired(func(_ context.Context, version int64, d []byte) { desired <- fmt.Sprint(version, " ", string(d)) })
	s.OnMethod(func(context.Context, *method.Call) method.Reply { return method.Reply{Status: 299} })
	s.OnMessage(func(_ context.Context, m *message.Message) error { taken <- string(m.Body); return nil })
	run(t, s)
	expect := func(want string) {
		t.Helper()
		if got := wait(t, "desired properties", desired); got != want {
			t.Errorf("desired properties are %s, want %s", got, want)
		}
	}
	expect(`2 {"a":1,"b":1,"$version":2}`)
	for round := range 3 {
		r.b.AwaitOpen(t, mod, head.Desired)
		a := r.b.AwaitOpen(t, mod, head.Methods)
		r.b.AwaitOpen(t, mod, head.Inputs)
		version := int64(2*round + 3)
		r.b.Desire(t, mod, fmt.Sprintf(`{"a":null,"b":{"n":%d}}`, round))
		expect(fmt.Sprintf(`%d {"b":{"n":%d},"$version":%d}`, version, round, version))
		if reply, err := a.Device.Invoke(within(t), &method.Call{Name: "x"}); err != nil || reply.Status != 299 {
			t.Errorf("round %d: method: %v, %v", round, reply, err)
		}
		m := text(fmt.Sprint(round))
		m.System.Input = "in"
		a.Device.Deliver(head.Inputs, []head.Delivery{{Token: 1, Message: &m}})
		if got := wait(t, "the message", taken); got != fmt.Sprint(round) {
			t.Errorf("round %d: message %q", round, got)
		}
		a.Settled(t, 1)
		if v, err := s.Report(within(t), fmt.Appendf(nil, `{"round":%d}`, round)); err != nil || v != int64(round+2) {
			t.Errorf("round %d: Report() = %d, %v", round, v, err)
		}
		c, err := s.await(within(t))
		if err != nil {
			t.Fatal(err)
		}
		a.Device.Close(errCut)
		wait(t, "the end of the connection", c.Done())
		// A change that nobody is told of is found when the session is back.
		r.b.Desire(t, mod, fmt.Sprintf(`{"b":{"n":%d}}`, -round-1))
		expect(fmt.Sprintf(`%d {"b":{"n":%d},"$version":%d}`, version+1, -round-1, version+1))
	}
	select {
	case d := <-desired:
		t.Errorf("told twice: %s", d)
	default:
	}
}

// TestSessionRenews sends all the time over several tokens: nothing is lost, nothing
// comes twice.
func TestSessionRenews(t *testing.T) {
	t.Parallel()
	claims := make(chan bool, 100)
	r := serve(t, &headtest.Backend{Judge: func(c *ident.Claim) (*ident.Principal, error) {
		claims <- true
		return judge(c)
	}})
	cfg := r.config(mod)
	cfg.TokenLife = 2 * time.Second // they are good to the second
	s := NewSession(cfg)
	s.OnMessage(func(ctx context.Context, m *message.Message) error {
		return s.SendOutput(ctx, "out", m)
	})
	run(t, s)
	wait(t, "the first connection", claims)
	a := r.b.AwaitOpen(t, mod, head.Inputs)
	n := 0
	for renewed := false; !renewed; n++ {
		m := text(fmt.Sprint(n))
		m.System.Input = "in"
		a.Device.Deliver(head.Inputs, []head.Delivery{{Token: uint64(n), Message: &m}})
		m = text("direct")
		if err := s.Send(within(t), &m); err != nil {
			t.Fatal(err)
		}
		select {
		case renewed = <-claims:
		default:
		}
	}
	last := text("last")
	if err := s.Send(within(t), &last); err != nil {
		t.Fatal(err)
	}
	settled := len(a.Settled(t, 0)) // but for the last, if the old connection is read late
	next := 0
	direct := 0
	for _, m := range r.b.Messages(t, n) {
		switch string(m.Body) {
		case "direct":
			direct++
		case "last":
		case fmt.Sprint(next):
			next++
		default:
			t.Fatalf("message %q, want %d", m.Body, next)
		}
	}
	if settled > next || settled < next-1 || direct != n {
		t.Errorf("of %d inputs %d were passed on and %d acknowledged; of %d messages %d arrived", n, next, settled, n, direct)
	}
}

// TestSessionMessageAgain has a handler that fails at first: what is after the message
// waits for it, what was before it is not delivered again.
func TestSessionMessageAgain(t *testing.T) { eachProtocol(t, testSessionMessageAgain) }

func testSessionMessageAgain(t *testing.T, p Protocol) {
	r := serveBy(t, p, &headtest.Backend{})
	s := NewSession(r.config(mod))
	taken := make(chan string, 10)
	failed := false
	s.OnMessage(func(_ context.Context, m *message.Message) error {
		taken <- string(m.Body)
		if string(m.Body) == "bad" && !failed {
			failed = true
			return errors.New("not yet")
		}
		return nil
	})
	run(t, s)
	deliver := func(a *headtest.Attachment, words string) {
		var batch []head.Delivery
		for i, m := range texts(words) {
			m.System.Input = "in"
			batch = append(batch, head.Delivery{Token: uint64(i), Message: &m})
		}
		a.Device.Deliver(head.Inputs, batch)
	}
	first := r.b.AwaitOpen(t, mod, head.Inputs)
	deliver(first, "good bad next")
	first.Settled(t, 1)
	r.b.AwaitGone(t, mod)
	acknowledged := 0
	for _, s := range first.Settled(t, 1) {
		if s.Outcome == head.Completed { // AMQP's head gives back what the link takes with it
			acknowledged++
		}
	}
	if acknowledged != 1 {
		t.Errorf("%d messages are acknowledged, want 1", acknowledged)
	}
	deliver(r.b.AwaitOpen(t, mod, head.Inputs), "bad next") // as a broker does
	for _, want := range strings.Fields("good bad bad next") {
		if got := wait(t, "a message", taken); got != want {
			t.Errorf("handled %q, want %q", got, want)
		}
	}
}
