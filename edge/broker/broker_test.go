package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

const chain = `{
	"a":"FROM /messages/modules/sensor/outputs/* INTO BrokeredEndpoint(\"/modules/filter/inputs/in\")",
	"b":"FROM /messages/modules/sensor/outputs/both INTO $upstream"}`

func checkOrder(t *testing.T, got []delivery, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("%d deliveries, want %d", len(got), to-from)
	}
	for i, d := range got {
		if d.body != fmt.Sprint(from+i) {
			t.Fatalf("delivery %d is %s, want %d", i, d.body, from+i)
		}
	}
}

func TestMessagesGoWhereRoutesLead(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	filter := newDevice(true)
	w.attach("filter", filter, head.Inputs)
	w.mustSend("sensor", "one", "0", "1")
	w.mustSend("sensor", "both", "2")
	got := filter.bodies(t, 3)
	checkOrder(t, got, 0, 3)
	s := got[2].m.System
	if s.Input != "in" || s.ConnectionDevice != "edge1" || s.ConnectionModule != "sensor" || s.Output != "both" ||
		s.Generation != "g" || s.AuthMethod != "{}" || s.ModelID != "dtmi:x;1" || s.Source != message.Telemetry || s.Enqueued.IsZero() {
		t.Errorf("stamped with %+v", s)
	}
	out, err := w.parent.Outbox(id("sensor"))
	if err != nil {
		t.Fatal(err)
	}
	items, err := out.Fetch(t.Context(), 10, 1000)
	if err != nil || len(items) != 1 {
		t.Fatalf("%d messages for the hub, error %v; want 1", len(items), err)
	}
}

func TestUnroutedMessagesAreAcknowledgedInTheirTurn(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	var mu sync.Mutex
	var order []int
	var all sync.WaitGroup
	from := &ident.Principal{ID: id("sensor")}
	for i := range 100 {
		m := message.Message{System: message.System{Output: "out"}}
		if i%3 == 0 {
			m.System.Output = "" // no route
		}
		if i%7 == 0 {
			m.Body = make([]byte, message.MaxTelemetry+1) // refused
		}
		all.Add(1)
		w.Publish(from, []message.Message{m}, func(err error) {
			if refused := fault.Is(err, fault.MessageTooLarge); refused != (i%7 == 0) || err != nil && !refused {
				t.Errorf("message %d: %v", i, err)
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			all.Done()
		})
	}
	all.Wait()
	if !slices.IsSorted(order) {
		t.Errorf("acknowledged in the order %v", order)
	}
	if c := w.Counts(); c.Received != 85 || c.Unrouted != 29 {
		t.Errorf("counts %+v", c)
	}
}

func TestWindow(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	filter := newDevice(false)
	a := w.attach("filter", filter, head.Inputs)
	w.mustSend("sensor", "one", numbers(0, 200)...)
	next := 64
	got := filter.bodies(t, next)
	for next < 200 {
		filter.mu.Lock()
		n := len(filter.got)
		filter.mu.Unlock()
		if n > next {
			t.Fatalf("%d under way, the most is 64", 64+n-next)
		}
		free := min(16, 200-next)
		for i := next - 64; i < next-64+16; i++ {
			a.Settle(head.Inputs, got[i].token, head.Completed)
		}
		next += free
		got = filter.bodies(t, next)
	}
	checkOrder(t, got, 0, 200)
}

func TestWindowOfBytes(t *testing.T) {
	w := start(t, t.TempDir(), func(c *Config) { c.WindowBytes = 1000 })
	w.routes(chain)
	filter := newDevice(false)
	a := w.attach("filter", filter, head.Inputs)
	big := strings.Repeat("x", 900)
	w.mustSend("sensor", "one", big, big, big)
	for i := range 3 {
		got := filter.bodies(t, i+1)
		// The second does not fit beside the first, but is fetched alone at most.
		if len(got) > i+2 {
			t.Fatalf("%d deliveries after %d were settled", len(got), i)
		}
		a.Settle(head.Inputs, got[i].token, head.Completed)
	}
}

func TestUnsettledComeAgainInOrder(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	w.mustSend("sensor", "one", numbers(0, 10)...)
	first := newDevice(false)
	a := w.attach("filter", first, head.Inputs)
	got := first.bodies(t, 10)
	for _, i := range []int{0, 1, 5} {
		a.Settle(head.Inputs, got[i].token, head.Completed)
	}
	a.Detach()
	a.Settle(head.Inputs, got[2].token, head.Completed) // too late
	a.Detach()

	second := newDevice(true)
	w.attach("filter", second, head.Inputs)
	again := second.bodies(t, 7)
	var bodies []string
	for _, d := range again {
		bodies = append(bodies, d.body)
		if !d.duplicate {
			t.Errorf("%s is not marked as a duplicate", d.body)
		}
	}
	if want := "2 3 4 6 7 8 9"; strings.Join(bodies, " ") != want {
		t.Errorf("delivered again %v, want %s", bodies, want)
	}
}

func TestFlowShutAndOpenedAgain(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	filter := newDevice(false)
	a := w.attach("filter", filter, head.Inputs)
	w.mustSend("sensor", "one", "0")
	old := filter.bodies(t, 1)[0].token
	a.Shut(head.Inputs)
	a.Open(head.Inputs)
	now := filter.bodies(t, 2)[1]
	a.Settle(head.Inputs, old, head.Completed) // of the flow before: means nothing now
	a.Detach()
	last := newDevice(true)
	w.attach("filter", last, head.Inputs)
	if got := last.bodies(t, 1)[0]; got.body != "0" || now.body != "0" {
		t.Errorf("got %q, then %q", now.body, got.body)
	}
}

func TestAbandonedComesAgainBeforeLaterOnes(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	filter := newDevice(false)
	a := w.attach("filter", filter, head.Inputs)
	w.mustSend("sensor", "one", "0", "1", "2")
	got := filter.bodies(t, 3)
	a.Settle(head.Inputs, got[0].token, head.Completed)
	a.Settle(head.Inputs, got[1].token, head.Abandoned)
	again := filter.bodies(t, 5)[3:]
	if again[0].body != "1" || again[1].body != "2" {
		t.Errorf("after abandoning 1 came %v, %v", again[0].body, again[1].body)
	}
	a.Settle(head.Inputs, again[0].token, head.Rejected)
	a.Settle(head.Inputs, again[1].token, head.Completed)
	in, err := w.q.Endpoint("input/edge1/filter/in")
	if err != nil || in.Len() != 0 {
		t.Errorf("%d messages left, error %v", in.Len(), err)
	}
}

func TestDeadModuleHoldsUpNobody(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(`{
		"a":"FROM /messages/modules/sensor/* INTO BrokeredEndpoint('/modules/dead/inputs/in')",
		"b":"FROM /messages/modules/sensor/* INTO BrokeredEndpoint('/modules/alive/inputs/in')"}`)
	dead, alive := newDevice(false), newDevice(true)
	w.attach("dead", dead, head.Inputs)
	w.attach("alive", alive, head.Inputs)
	for i := range 20 {
		w.mustSend("sensor", "one", numbers(i*50, i*50+50)...)
	}
	checkOrder(t, alive.bodies(t, 1000), 0, 1000)
	if n := len(dead.bodies(t, 64)); n != 64 {
		t.Errorf("%d under way to the dead module, want 64", n)
	}
}

func TestPriority(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(`{
		"low":"FROM /messages/* INTO BrokeredEndpoint('/modules/filter/inputs/in')",
		"high":{"route":"FROM /messages/modules/sensor/outputs/alarm INTO BrokeredEndpoint('/modules/filter/inputs/in')","priority":0}}`)
	w.mustSend("sensor", "one", "1", "2")
	w.mustSend("sensor", "alarm", "0")
	filter := newDevice(true)
	w.attach("filter", filter, head.Inputs)
	checkOrder(t, filter.bodies(t, 3), 0, 3)
}

func TestRevoke(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	filter, sensor := newDevice(true), newDevice(true)
	w.attach("filter", filter, head.Inputs)
	w.attach("sensor", sensor)
	w.Revoke(id("filter"))
	w.Revoke(id("nobody"))
	if !fault.Is(filter.closed, fault.Unauthorized) || sensor.closed != nil {
		t.Errorf("the revoked one was closed with %v, the other with %v", filter.closed, sensor.closed)
	}
}

func TestTakeOver(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	w.mustSend("sensor", "one", numbers(0, 3)...)
	old, young := newDevice(false), newDevice(true)
	a := w.attach("filter", old, head.Inputs)
	old.bodies(t, 3)
	w.attach("filter", young, head.Inputs)
	checkOrder(t, young.bodies(t, 3), 0, 3)
	if !fault.Is(old.closed, fault.TakenOver) {
		t.Errorf("the old connection was closed with %v", old.closed)
	}
	a.Detach() // the head finds out later
	if w.session(id("filter")) == nil {
		t.Error("the end of the old connection ended the new one")
	}
	if n, _ := w.parent.knows(id("filter")); n != 1 {
		t.Errorf("%d holds, want 1", n)
	}
}

// TestReconnectDuringTheEnd: a module is back while the end of its old connection is
// still being worked off.
func TestReconnectDuringTheEnd(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	old := newDevice(false)
	release := make(chan struct{})
	called := make(chan struct{})
	old.reply = func(*method.Call) (method.Reply, error) { close(called); <-release; return method.Reply{}, nil }
	a := w.attach("filter", old, head.Methods)
	answered := make(chan error, 1)
	go func() {
		_, err := w.Invoke(context.Background(), id("filter"), &method.Call{Name: "slow"})
		answered <- err
	}()
	s := a.(*session)
	ended := make(chan struct{})
	<-called
	go func() { a.Detach(); close(ended) }()
	w.wait("the beginning of the end", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.ended
	})
	back := make(chan struct{})
	go func() { w.attach("filter", newDevice(true), head.Methods); close(back) }()
	w.wait("the new connection", func() bool { return w.session(id("filter")) != s })
	select {
	case <-back:
	case <-time.After(50 * time.Millisecond): // it waits, which is right
	}
	close(release)
	<-ended
	<-back
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if n, methods := w.parent.knows(id("filter")); n != 1 || !methods {
		t.Errorf("%d holds, methods %t", n, methods)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.clients[id("filter")].connected {
		t.Error("it is told as disconnected")
	}
}

func TestBadConfigurationChangesNothing(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	w.mustSend("sensor", "one", "0")
	for config, want := range map[string]string{
		`{"schemaVersion":"2.0","routes":{}}`:                                    `invalid schema version "2.0"`,
		`{"routes":{}}`:                                                          `invalid schema version ""`,
		`{"schemaVersion":"1.1","routes":{}}`:                                    "storeAndForwardConfiguration is missing",
		`{"schemaVersion":"1.0","routes":{"x":"FROM /* INTO nowhere"}}`:          `route "x": line 1, column 14`,
		`{"schemaVersion":"1.0","routes":{"x":{"route":"FROM /*"}}}`:             `route "x": a route is a string`,
		`{"schemaVersion":"1.0","routes":{"x":5}}`:                               `route "x": a route is a string`,
		`{"schemaVersion":"1.0","routes":[]}`:                                    "desired properties of $edgeHub",
		object(`{"priority":1}`):                                                 `route "x": the object has no route`,
		object(`{"route":"FROM /* INTO $upstream","priority":10}`):               "priority 10 is not a whole number from 0 to 9",
		object(`{"route":"FROM /* INTO $upstream","priority":1.5}`):              "priority 1.5",
		object(`{"route":"FROM /* INTO $upstream","timeToLiveSecs":-1}`):         "timeToLiveSecs -1",
		object(`{"route":"FROM /* WHERE abs(x) > 1 INTO $upstream"}`):            "function abs is not supported yet",
		object(`{"route":"FROM /* INTO $upstream","timeToLiveSecs":4294967296}`): "timeToLiveSecs 4294967296",
	} {
		err := w.Apply(t.Context(), []byte(config))
		if !fault.Is(err, fault.InvalidConfiguration) || !strings.Contains(fault.TextOf(err), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
	filter := newDevice(true)
	w.attach("filter", filter, head.Inputs)
	w.mustSend("sensor", "one", "1")
	checkOrder(t, filter.bodies(t, 2), 0, 2)
}

func object(route string) string {
	return `{"schemaVersion":"1.1.0","storeAndForwardConfiguration":{},"routes":{"x":` + route + `}}`
}

func TestSettings(t *testing.T) {
	s, err := parseSettings([]byte(`{"schemaVersion":"1.3","$version":7,"mqttBroker":{"bridges":[]},"integrity":{},
		"storeAndForwardConfiguration":{"timeToLiveSecs":60,"storeLimits":{"maxSizeBytes":1}},
		"routes":{"b":"FROM /* INTO $upstream","blank":"  ","gone":null,
			"a":{"route":"FROM /* INTO $upstream","priority":3,"timeToLiveSecs":5},
			"c":{"route":"FROM /* INTO $upstream","priority":2000000000}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.ttl != time.Minute || len(s.routes) != 3 {
		t.Fatalf("%+v", s)
	}
	if a := s.routes[0]; a.Name != "a" || a.Priority != 3 || a.TTL != 5*time.Second {
		t.Errorf("%+v", a)
	}
	for _, r := range s.routes[1:] {
		if r.Priority != 10 || r.TTL != 0 {
			t.Errorf("%+v", r)
		}
	}
	for ttl, want := range map[string]time.Duration{"-1": 0, "0": 1, "7200": 2 * time.Hour} {
		s, err := parseSettings([]byte(`{"schemaVersion":"1.0","routes":null,"storeAndForwardConfiguration":{"timeToLiveSecs":` + ttl + `}}`))
		if err != nil || s.ttl != want {
			t.Errorf("time to live %s becomes %v, error %v", ttl, s.ttl, err)
		}
	}
	if s, err := parseSettings([]byte(`{"schemaVersion":"1.0"}`)); err != nil || s.ttl != defaultTTL {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRoutesChangeUnderAnAttachedModule(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(chain)
	filter := newDevice(true)
	w.attach("filter", filter, head.Inputs)
	w.mustSend("sensor", "one", "0")
	filter.bodies(t, 1)
	w.routes(`{"a":"FROM /messages/* INTO BrokeredEndpoint('/modules/filter/inputs/second')"}`)
	w.mustSend("sensor", "one", "1")
	if got := filter.bodies(t, 2); got[1].input != "second" {
		t.Errorf("delivered to input %s", got[1].input)
	}
	if names := w.q.Names(); slices.Contains(names, "input/edge1/filter/in") || !slices.Contains(names, "input/edge1/filter/second") {
		t.Errorf("endpoints are %v", names)
	}
	w.routes(`{}`)
	w.mustSend("sensor", "one", "2")
	if names := w.q.Names(); len(names) != 0 {
		t.Errorf("endpoints are %v", names)
	}
}

func TestBacklogAndRoutesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir)
	w.parent.twin(w.self, `{"desired":{"schemaVersion":"1.0","routes":`+chain+`,"$version":4},"reported":{"$version":1}}`)
	w.parent.online(true)
	w.Linked(t.Context(), w.self)
	w.parent.reported(t, ident.EdgeHub, 2)
	w.mustSend("sensor", "one", numbers(0, 50)...)
	w.stop()

	w = start(t, dir) // offline
	filter := newDevice(true)
	w.attach("filter", filter, head.Inputs)
	checkOrder(t, filter.bodies(t, 50), 0, 50)
	w.mustSend("sensor", "one", "50")
	checkOrder(t, filter.bodies(t, 51), 0, 51)
}

func (w *world) wait(what string, cond func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestNothingIsTakenBeforeThereAreRoutes(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir)
	if err := w.send("sensor", "one", "0"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	w.routes(chain)
	if err := w.Apply(t.Context(), []byte(`{}`)); err == nil {
		t.Error("a bad configuration was taken")
	}
	w.stop()
	w = start(t, dir)
	w.mustSend("sensor", "one", "0") // by the last good ones
	filter := newDevice(true)
	w.attach("filter", filter, head.Inputs)
	filter.bodies(t, 1)
}

func TestSubscriptionsAreKept(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir)
	subs := []head.Subscription{{Filter: "$iothub/methods/POST/#", QoS: 1}}
	if _, found, err := w.Subscriptions(t.Context(), id("m")); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	if err := w.SaveSubscriptions(t.Context(), id("m"), subs); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w = start(t, dir)
	got, found, err := w.Subscriptions(t.Context(), id("m"))
	if !found || err != nil || !slices.Equal(got, subs) {
		t.Errorf("got %v, %v, %v", got, found, err)
	}
	for range 2 {
		if err := w.SaveSubscriptions(t.Context(), id("m"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, found, _ := w.Subscriptions(t.Context(), id("m")); found {
		t.Error("a forgotten session is still there")
	}
}

func TestMethods(t *testing.T) {
	w := start(t, t.TempDir(), func(c *Config) {
		c.Refresh = func(_ context.Context, ids []string) error {
			if ids[0] != "edge1/new" {
				return errors.New("unknown")
			}
			return nil
		}
	})
	call := &method.Call{Name: "reset", Payload: []byte(`1`), ResponseTimeout: 5 * time.Second}
	if _, err := w.Invoke(t.Context(), id("filter"), call); !fault.Is(err, fault.DeviceNotOnline) {
		t.Errorf("not connected: %v", err)
	}
	d := newDevice(true)
	d.reply = func(c *method.Call) (method.Reply, error) { return method.Reply{Status: 7, Payload: c.Payload}, nil }
	a := w.attach("filter", d)
	if _, err := w.Invoke(t.Context(), id("filter"), call); !fault.Is(err, fault.DeviceNotOnline) {
		t.Errorf("not subscribed: %v", err)
	}
	a.Open(head.Methods)
	if _, can := w.parent.knows(id("filter")); !can {
		t.Error("the parent does not know that methods are taken")
	}
	if r, err := w.Invoke(t.Context(), id("filter"), call); err != nil || r.Status != 7 || string(r.Payload) != "1" {
		t.Errorf("got %+v, %v", r, err)
	}
	d.reply = nil // never answers
	result := make(chan error, 1)
	go func() {
		_, err := w.Invoke(context.Background(), id("filter"), call)
		result <- err
	}()
	d.wait(t, "the call", func() bool { return d.calls == 1 })
	a.Detach()
	if err := <-result; err == nil {
		t.Error("a call outlived its session")
	}
	if _, can := w.parent.knows(id("filter")); can {
		t.Error("the parent believes that methods are still taken")
	}
	for payload, want := range map[string]int{`{"deviceIds":["edge1/new"]}`: 200, `{"deviceIds":["other"]}`: 500, `{}`: 400, `null`: 400} {
		c := &method.Call{Name: "RefreshDeviceScopeIdentityCache", Payload: []byte(payload)}
		if r, err := w.Invoke(t.Context(), w.self, c); err != nil || r.Status != want {
			t.Errorf("%s: %+v, %v", payload, r, err)
		}
	}
	if r, err := w.Invoke(t.Context(), w.self, call); err != nil || r.Status != 404 || !json.Valid(r.Payload) {
		t.Errorf("unknown method of $edgeHub: %+v, %v", r, err)
	}
}

func TestDeviceItselfIsNoClient(t *testing.T) {
	w := start(t, t.TempDir())
	w.routes(`{}`)
	if _, err := w.Authenticate(t.Context(), &ident.Claim{ID: ident.ID{Device: "edge1"}}); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("got %v", err)
	}
	if p, err := w.Authenticate(t.Context(), &ident.Claim{ID: id("m")}); err != nil || p.ID != id("m") {
		t.Errorf("got %v, %v", p, err)
	}
}

// BenchmarkPublishDeliver sends messages of 256 bytes from one module to another, durably.
func BenchmarkPublishDeliver(b *testing.B) {
	for _, batch := range []int{1, 16} {
		b.Run(fmt.Sprint("Batch", batch), func(b *testing.B) {
			w := start(b, b.TempDir())
			w.routes(`{"a":"FROM /messages/modules/sensor/* WHERE $body.machine.temperature > 25 INTO BrokeredEndpoint('/modules/filter/inputs/in')"}`)
			sink := &sink{got: make(chan int, 1<<16)}
			a, err := w.Attach(b.Context(), &ident.Principal{ID: id("filter")}, sink)
			if err != nil {
				b.Fatal(err)
			}
			sink.a = a
			a.Open(head.Inputs)
			m := message.Message{
				Body:   []byte(`{"machine":{"temperature":51.2,"pressure":4.3},"pad":"` + strings.Repeat("x", 200) + `"}`),
				System: message.System{Output: "out", ContentType: "application/json", ContentEncoding: "utf-8"},
			}
			batch := slices.Repeat([]message.Message{m}, batch)
			from := &ident.Principal{ID: id("sensor")}
			room := make(chan struct{}, 256)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += len(batch) {
				room <- struct{}{}
				w.Publish(from, batch, func(err error) {
					if err != nil {
						b.Error(err)
					}
					<-room
				})
			}
			for n := 0; n < b.N; {
				n += <-sink.got
			}
		})
	}
}

// sink acknowledges at once.
type sink struct {
	device
	a   head.Attachment
	got chan int
}

func (s *sink) Deliver(f head.Flow, batch []head.Delivery) {
	for _, d := range batch {
		s.a.Settle(f, d.Token, head.Completed)
	}
	s.got <- len(batch)
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":"1.1","storeAndForwardConfiguration":{"timeToLiveSecs":-1},"routes":{"a":"FROM /* INTO $upstream","b":{"route":"FROM /messages WHERE a = 'x' INTO $upstream","priority":9,"timeToLiveSecs":1}}}`))
	f.Add([]byte(`{"schemaVersion":"1.","routes":{"a":null,"b":{}}}`))
	f.Fuzz(func(t *testing.T, desired []byte) {
		s, err := parseSettings(desired)
		if err != nil {
			if !fault.Is(err, fault.InvalidConfiguration) {
				t.Fatalf("not a fault that can be reported: %v", err)
			}
			return
		}
		for _, r := range s.routes {
			if r.Priority > 10 || r.TTL < 0 || strings.TrimSpace(r.Text) == "" {
				t.Fatalf("%+v", r)
			}
		}
	})
}
