package inbox

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/api"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

var _ api.Inbox = (*Inbox)(nil)

// plain is a sealer that leaves keys as they are.
type plain struct{}

func (plain) Seal(b []byte) ([]byte, error) { return b, nil }
func (plain) Open(b []byte) ([]byte, error) { return b, nil }

// rig is an inbox over a real database, in a bubble of fake time.
type rig struct {
	*Inbox
	t    *testing.T
	path string
	db   *store.DB
	reg  *registry.Registry
	cfg  Config
}

var dev = ident.ID{Device: "dev"}

// bubble runs a test in fake time with a device that exists.
func bubble(t *testing.T, cfg Config, fn func(t *testing.T, r *rig)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hub.db")
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, path: path, cfg: cfg}
		r.start()
		defer r.stop()
		r.create(dev.Device)
		fn(t, r)
	})
}

func (r *rig) start() {
	r.t.Helper()
	ctx := context.Background()
	var err error
	if r.db, err = store.Open(ctx, store.Config{Path: r.path}); err != nil {
		r.t.Fatal(err)
	}
	if r.reg, err = registry.New(ctx, registry.Config{DB: r.db, Sealer: plain{}}); err != nil {
		r.t.Fatal(err)
	}
	r.cfg.DB = r.db
	if r.Inbox, err = Open(ctx, r.cfg); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stop() {
	r.Inbox.Close()
	if err := r.db.Close(); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) create(device string) {
	r.t.Helper()
	if _, err := r.reg.Create(r.t.Context(), registry.Spec{ID: ident.ID{Device: device}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) send(m message.Message) {
	r.t.Helper()
	if err := r.Send(r.t.Context(), dev, &m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) sendAll(bodies ...string) {
	r.t.Helper()
	for _, b := range bodies {
		r.send(message.Message{Body: []byte(b), System: message.System{MessageID: "id-" + b, Ack: "full"}})
	}
}

// rows is how many messages the database holds.
func (r *rig) rows() (n int) {
	r.t.Helper()
	if err := r.db.Read().QueryRow("SELECT COUNT(*) FROM inbox").Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) wantWaiting(want int) {
	r.t.Helper()
	synctest.Wait()
	if n, err := r.Waiting(r.t.Context(), dev); n != want || err != nil {
		r.t.Errorf("%d wait, want %d (%v)", n, want, err)
	}
}

// feedback gives "body:status" of all records.
func (r *rig) feedback() (all []string) {
	r.t.Helper()
	synctest.Wait()
	records, err := r.readFeedback(r.t.Context(), 0, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range records {
		all = append(all, strings.TrimPrefix(f.MessageID, "id-")+":"+string(f.Status))
	}
	return all
}

// port is a device at the end of a line.
type port struct {
	*Line
	r *rig

	mu  sync.Mutex
	got []got
}

// got is one delivery.
type got struct {
	head.Delivery
	body string
	m    message.Message
}

func (r *rig) attach() *port {
	p := &port{r: r}
	p.Line = r.Attach(dev, func(batch []head.Delivery) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, d := range batch {
			m := d.Message.Clone()
			p.got = append(p.got, got{d, string(m.Body), m})
		}
	})
	return p
}

// open attaches and opens.
func (r *rig) open() *port {
	p := r.attach()
	p.Open()
	return p
}

// take waits until everything stands still and gives what came since.
func (p *port) take() []got {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.got
	p.got = nil
	return all
}

// want checks the bodies that came; one delivered again on the line has a * behind.
func (p *port) want(bodies ...string) []got {
	p.r.t.Helper()
	all := p.take()
	var have []string
	for _, g := range all {
		b := g.body
		if g.Duplicate {
			b += "*"
		}
		have = append(have, b)
	}
	if !slices.Equal(have, bodies) {
		p.r.t.Errorf("delivered %q, want %q", have, bodies)
	}
	return all
}

func TestDelivery(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		start := time.Now()
		r.send(message.Message{Body: []byte("a"), Properties: []message.Property{{Name: "n", Value: "v"}},
			System: message.System{MessageID: "1", CorrelationID: "2", Ack: "full", To: "/devices/dev/messages/devicebound",
				DeliveryCount: 9, LockToken: "forged", Sequence: 77}})
		p := r.attach()
		p.want() // shut at first
		p.Open()
		a := p.want("a")[0]
		s := a.m.System
		if s.MessageID != "1" || s.CorrelationID != "2" || s.Ack != "full" || s.To == "" || !s.Enqueued.Equal(start) ||
			s.DeliveryCount != 0 || len(s.LockToken) != 36 || !s.Expiry.IsZero() || len(a.m.Properties) != 1 {
			t.Errorf("delivered %+v", a.m)
		}
		r.sendAll("b", "c") // wakes the line
		bc := p.want("b", "c")
		if bc[0].m.System.Sequence <= s.Sequence || bc[1].m.System.Sequence <= bc[0].m.System.Sequence {
			t.Errorf("sequence numbers %d %d %d", s.Sequence, bc[0].m.System.Sequence, bc[1].m.System.Sequence)
		}
		r.wantWaiting(3)
		p.Settle(bc[1].Token, head.Completed) // any order
		p.Settle(a.Token, head.Completed)
		p.Settle(a.Token, head.Completed) // a second time means nothing
		p.Settle(4711, head.Rejected)
		p.Settle(bc[0].Token, head.Rejected)
		r.wantWaiting(0)
		if n := r.rows(); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if f := r.feedback(); !slices.Equal(f, []string{"c:Success", "1:Success", "b:Rejected"}) {
			t.Errorf("feedback %q", f)
		}
		p.Close()
		p.Close()
		if len(r.queues) != 0 || len(r.dates) != 0 {
			t.Errorf("%d queues and %d dates are remembered", len(r.queues), len(r.dates))
		}
	})
}

func TestRefusals(t *testing.T) {
	bubble(t, Config{Depth: 3}, func(t *testing.T, r *rig) {
		m := message.Message{Body: []byte("x")}
		past, huge := m, m
		past.System.Expiry = time.Now()
		huge.Body = make([]byte, message.MaxToDevice+1)
		r.sendAll("1", "2", "3")
		for name, c := range map[string]struct {
			to   ident.ID
			m    message.Message
			want fault.Code
		}{
			"no device": {ident.ID{Device: "nobody"}, m, fault.DeviceNotFound},
			"module":    {ident.ID{Device: "dev", Module: "m"}, m, fault.ArgumentInvalid},
			"expired":   {dev, past, fault.InvalidExpiry},
			"huge":      {dev, huge, fault.MessageTooLarge},
			"full":      {dev, m, fault.QueueFull},
		} {
			if err := r.Send(t.Context(), c.to, &c.m); !fault.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		p := r.open()
		p.Settle(p.want("1", "2", "3")[0].Token, head.Completed)
		synctest.Wait()
		r.sendAll("4") // there is room again
		p.want("4")
	})
}

func TestLockEnds(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		p := r.open()
		r.sendAll("a", "b")
		first := p.want("a", "b")
		p.Settle(first[1].Token, head.Completed)
		time.Sleep(59 * time.Second)
		p.want()
		time.Sleep(time.Second)
		again := p.want("a*")[0]
		if again.m.System.DeliveryCount != 0 {
			t.Errorf("the end of a lock counts: %d", again.m.System.DeliveryCount)
		}
		if again.m.System.LockToken == first[0].m.System.LockToken || again.Token == first[0].Token {
			t.Error("the tokens are the same")
		}
		p.Settle(first[0].Token, head.Completed) // too late
		r.wantWaiting(1)
		p.Settle(again.Token, head.Completed)
		r.wantWaiting(0)
	})
}

func TestAbandon(t *testing.T) {
	bubble(t, Config{MaxDeliveries: 3}, func(t *testing.T, r *rig) {
		p := r.open()
		r.sendAll("a", "b")
		ab := p.want("a", "b")
		p.Shut()
		r.sendAll("c")
		p.Settle(ab[0].Token, head.Abandoned)
		p.want()
		p.Open()
		ac := p.want("a*", "c") // a is before c again
		if n := ac[0].m.System.DeliveryCount; n != 1 {
			t.Errorf("delivery count %d", n)
		}
		p.Settle(ac[0].Token, head.Abandoned)
		a := p.want("a*")[0]
		synctest.Wait()
		r.stop() // counts outlive a restart
		r.start()
		p = r.open()
		abc := p.want("a", "b", "c")
		if n := abc[0].m.System.DeliveryCount; n != 2 || a.m.System.DeliveryCount != 2 {
			t.Errorf("delivery count %d", n)
		}
		p.Settle(abc[0].Token, head.Abandoned)
		r.wantWaiting(2)
		p.want()
		if f := r.feedback(); !slices.Equal(f, []string{"a:DeliveryCountExceeded"}) {
			t.Errorf("feedback %q", f)
		}
	})
}

func TestExpiry(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		start := time.Now()
		expiring := func(body string, after time.Duration) {
			m := message.Message{Body: []byte(body), System: message.System{MessageID: body, Ack: "negative"}}
			if after > 0 {
				m.System.Expiry = start.Add(after)
			}
			r.send(m)
		}
		expiring("a", 0)
		expiring("b", 90*time.Second)
		expiring("c", 30*time.Second)
		expiring("d", 1000*time.Hour)
		p := r.open()
		all := p.want("a", "b", "c", "d")
		if !all[1].m.System.Expiry.Equal(start.Add(90 * time.Second)) {
			t.Errorf("expiry %v", all[1].m.System.Expiry)
		}
		p.Shut()
		time.Sleep(30 * time.Second)
		r.wantWaiting(3) // c expired although it was locked
		p.Settle(all[2].Token, head.Completed)
		time.Sleep(60 * time.Second)
		r.wantWaiting(2)
		if f := r.feedback(); !slices.Equal(f, []string{"c:Expired", "b:Expired"}) {
			t.Errorf("feedback %q", f)
		}
		time.Sleep(time.Until(start.Add(time.Hour)))
		r.wantWaiting(1) // a had the default life
		r.stop()
		time.Sleep(47 * time.Hour) // d had the longest, and nobody was there
		r.start()
		r.wantWaiting(0)
		if f := r.feedback(); !slices.Equal(f, []string{"d:Expired"}) { // the older ones are too old
			t.Errorf("feedback %q", f)
		}
		if n := r.rows(); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestWindow(t *testing.T) {
	bubble(t, Config{Window: 3, WindowBytes: 10_000}, func(t *testing.T, r *rig) {
		r.sendAll("a", "b", "c", "d", "e")
		p := r.open()
		abc := p.want("a", "b", "c")
		p.Settle(abc[1].Token, head.Completed)
		p.Settle(abc[0].Token, head.Completed)
		de := p.want("d", "e")
		for _, g := range append(de, abc[2]) {
			p.Settle(g.Token, head.Completed)
		}
		big := strings.Repeat("x", 20_000)
		r.sendAll(big, big)
		first := p.want(big) // the bytes are bounded too
		p.Settle(first[0].Token, head.Completed)
		p.want(big)
	})
}

// What a dead connection had is delivered to the next one at once, in order and
// not counted; so it is after a restart.
func TestCloseGivesBack(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		p := r.open()
		r.sendAll("a", "b", "c")
		abc := p.want("a", "b", "c")
		p.Settle(abc[1].Token, head.Completed)
		next := r.open()
		next.want()
		p.Close()
		ac := next.want("a", "c")
		if n := ac[0].m.System.DeliveryCount; n != 0 {
			t.Errorf("delivery count %d", n)
		}
		p.Settle(abc[0].Token, head.Completed) // of a closed line
		r.sendAll("d")
		next.want("d")
		r.stop()
		r.start()
		r.open().want("a", "c", "d")
	})
}

func TestPurge(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		p := r.open()
		r.sendAll("a", "b", "c")
		abc := p.want("a", "b", "c")
		p.Settle(abc[0].Token, head.Completed)
		p.Shut()
		r.send(message.Message{Body: []byte("d"), System: message.System{MessageID: "d", Ack: "positive"}})
		if n, err := r.Purge(t.Context(), dev); n != 3 || err != nil {
			t.Errorf("purged %d, %v", n, err)
		}
		if n := r.rows(); n != 0 {
			t.Errorf("%d rows after the purge", n)
		}
		if n, err := r.Purge(t.Context(), dev); n != 0 || err != nil {
			t.Errorf("purged %d again, %v", n, err)
		}
		p.Settle(abc[1].Token, head.Completed)
		if f := r.feedback(); !slices.Equal(f, []string{"a:Success", "b:Purged", "c:Purged"}) {
			t.Errorf("feedback %q", f)
		}
		p.Open()
		r.sendAll("e")
		p.want("e")
	})
}

func TestDeviceDeleted(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		r.sendAll("a", "b")
		p := r.open()
		ab := p.want("a", "b")
		p.Settle(ab[0].Token, head.Rejected)
		synctest.Wait()
		p.Shut()
		r.sendAll("c")
		if err := r.reg.Delete(t.Context(), dev, ""); err != nil {
			t.Fatal(err)
		}
		r.create(dev.Device) // and made anew before anyone calls Forget
		r.sendAll("d")
		p.Settle(ab[1].Token, head.Completed) // of the old device
		if err := r.Forget(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		r.wantWaiting(1)
		p.Open()
		p.want("d")
		if f := r.feedback(); len(f) != 0 {
			t.Errorf("feedback of the deleted device: %q", f)
		}
		p.Close()
		if err := r.reg.Delete(t.Context(), dev, ""); err != nil {
			t.Fatal(err)
		}
		late := r.open() // before Forget: memory knows of d, the database does not
		late.want()
		late.Close()
		if err := r.Forget(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		if len(r.queues) != 0 || len(r.dates) != 0 {
			t.Errorf("%d queues and %d dates are remembered", len(r.queues), len(r.dates))
		}
	})
}

func TestAcks(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		p := r.open()
		for _, ack := range []string{"", "none", "positive", "negative", "full"} {
			for _, o := range []head.Outcome{head.Completed, head.Rejected} {
				r.send(message.Message{System: message.System{MessageID: ack, Ack: ack}})
				p.Settle(p.take()[0].Token, o)
			}
		}
		want := []string{"positive:Success", "negative:Rejected", "full:Success", "full:Rejected"}
		if f := r.feedback(); !slices.Equal(f, want) {
			t.Errorf("feedback %q, want %q", f, want)
		}
	})
}

func TestFeedbackReader(t *testing.T) {
	bubble(t, Config{MaxFeedback: 8}, func(t *testing.T, r *rig) {
		type answer struct {
			records []Feedback
			err     error
		}
		answers := make(chan answer, 1)
		ask := func(after int64) {
			go func() {
				records, err := r.Feedback(r.t.Context(), after, 2)
				answers <- answer{records, err}
			}()
			synctest.Wait()
		}
		p := r.open()
		complete := func(bodies ...string) {
			r.sendAll(bodies...)
			for _, g := range p.take() {
				p.Settle(g.Token, head.Completed)
			}
			synctest.Wait()
		}
		ask(0)
		sent := time.Now()
		complete("a") // wakes it
		a := <-answers
		identity, err := r.reg.Get(t.Context(), dev)
		if err != nil {
			t.Fatal(err)
		}
		want := Feedback{ID: a.records[0].ID, Of: dev, Generation: identity.Generation, MessageID: "id-a", Enqueued: sent.UTC(), Status: Success, At: sent.UTC()}
		if a.err != nil || len(a.records) != 1 || a.records[0] != want {
			t.Fatalf("records %+v, %v, want %+v", a.records, a.err, want)
		}
		ask(a.records[0].ID)
		complete("b", "c", "d")
		<-answers
		ask(0)
		if f := <-answers; len(f.records) != 2 {
			t.Errorf("%d records, two were asked for", len(f.records))
		}
		if err := r.DropFeedback(t.Context(), a.records[0].ID); err != nil {
			t.Fatal(err)
		}
		if f := r.feedback(); !slices.Equal(f, []string{"b:Success", "c:Success", "d:Success"}) {
			t.Errorf("feedback %q", f)
		}
		for i := range 30 {
			complete(fmt.Sprint(i))
		}
		if f := r.feedback(); len(f) > 9 || f[len(f)-1] != "29:Success" {
			t.Errorf("%d records are kept: %q", len(f), f)
		}
		time.Sleep(2 * time.Hour)
		if f := r.feedback(); len(f) != 0 {
			t.Errorf("too old: %q", f)
		}
		complete("last") // sweeps
		var n int
		if err := r.db.Read().QueryRow("SELECT COUNT(*) FROM inbox_feedback").Scan(&n); err != nil || n != 1 {
			t.Errorf("%d rows, %v", n, err)
		}
		ask(1 << 60)
		r.Inbox.Close()
		if f := <-answers; !fault.Is(f.err, fault.Unavailable) {
			t.Errorf("after Close: %v", f.err)
		}
	})
}

// While the database takes no writes, what is settled stays settled, and it is
// written when that works again.
func TestWritesFail(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, r *rig) {
		p := r.open()
		r.sendAll("a", "b")
		ab := p.want("a", "b")
		exec := func(query string) {
			t.Helper()
			if err := r.db.Write(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(query); return err }); err != nil {
				t.Fatal(err)
			}
		}
		exec("CREATE TRIGGER refuse BEFORE DELETE ON inbox BEGIN SELECT RAISE(ABORT, 'no'); END")
		p.Settle(ab[0].Token, head.Completed)
		if n, err := r.Purge(t.Context(), dev); err == nil {
			t.Errorf("purged %d", n)
		}
		time.Sleep(5 * time.Minute)
		p.want()
		r.wantWaiting(0)
		if n := r.rows(); n != 2 {
			t.Fatalf("%d rows, the deletion was to fail", n)
		}
		exec("DROP TRIGGER refuse")
		time.Sleep(2 * time.Second)
		r.wantWaiting(0)
		if n := r.rows(); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if f := r.feedback(); !slices.Equal(f, []string{"a:Success", "b:Purged"}) {
			t.Errorf("feedback %q", f)
		}
	})
}
