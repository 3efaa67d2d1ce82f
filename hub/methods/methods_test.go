package methods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
)

var (
	pump  = ident.ID{Device: "pump"}
	valve = ident.ID{Device: "pump", Module: "valve"}
)

// device is a listener that does as the function says.
type device struct {
	do func(ctx context.Context, c *method.Call) (method.Reply, error)
}

func (d *device) Invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	return d.do(ctx, c)
}

// echo answers with the payload and a status.
func echo(status int) *device {
	return &device{func(_ context.Context, c *method.Call) (method.Reply, error) {
		return method.Reply{Status: status, Payload: c.Payload}, nil
	}}
}

// deaf answers when its context ends, as heads do.
func deaf() *device {
	return &device{func(ctx context.Context, _ *method.Call) (method.Reply, error) {
		<-ctx.Done()
		return method.Reply{}, fault.Wrap(ctx.Err(), fault.GatewayTimeout, "no answer")
	}}
}

func failing(err error) *device {
	return &device{func(context.Context, *method.Call) (method.Reply, error) { return method.Reply{}, err }}
}

func call(connect time.Duration) *method.Call {
	return &method.Call{Name: "open", Payload: json.RawMessage(`{"by":3}`), ResponseTimeout: 30 * time.Second, ConnectTimeout: connect}
}

// empty checks that nothing is left behind.
func empty(t *testing.T, m *Methods) {
	t.Helper()
	if c := m.Counts(); c.UnderWay != 0 || len(m.lines) != c.Listening {
		t.Errorf("left behind: %+v, %d lines", c, len(m.lines))
	}
}

func TestInvoke(t *testing.T) {
	m := New(Config{})
	m.Open(pump, echo(200))
	m.Open(valve, echo(404))
	for id, want := range map[ident.ID]int{pump: 200, valve: 404} {
		reply, err := m.Invoke(t.Context(), id, call(0))
		if err != nil || reply.Status != want || string(reply.Payload) != `{"by":3}` {
			t.Errorf("%s: %+v, %v", id, reply, err)
		}
	}
	if c := m.Counts(); c != (Counts{Answered: 2, Listening: 2}) {
		t.Errorf("counts %+v", c)
	}
}

func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		for _, wait := range []time.Duration{0, 7 * time.Second} {
			start := time.Now()
			_, err := m.Invoke(t.Context(), pump, call(wait))
			if !fault.Is(err, fault.DeviceNotOnline) || time.Since(start) != wait {
				t.Errorf("with %v: %v after %v", wait, err, time.Since(start))
			}
		}
		if len(m.lines) != 0 {
			t.Error("a line stays for a device that nobody needs")
		}
		if c := m.Counts(); c.Failed != 2 {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestWaitsForTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		var came time.Time
		time.AfterFunc(20*time.Second, func() {
			came = time.Now()
			m.Open(pump, &device{func(ctx context.Context, _ *method.Call) (method.Reply, error) {
				deadline, _ := ctx.Deadline()
				return method.Reply{Status: int(time.Until(deadline).Seconds())}, nil
			}})
		})
		reply, err := m.Invoke(t.Context(), pump, call(60*time.Second))
		if err != nil || reply.Status != 30 || time.Since(came) != 0 {
			t.Errorf("the response time must start at delivery: %+v, %v", reply, err)
		}
		empty(t, m)
	})
}

// A device that stops listening as it is asked may come back in time.
func TestWaitsAgainWhenTheCallWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		leaving := failing(fault.New(fault.DeviceNotOnline, "just left"))
		m.Open(pump, leaving)
		time.AfterFunc(time.Second, func() { m.Shut(pump, leaving) })
		time.AfterFunc(3*time.Second, func() { m.Open(pump, echo(200)) })
		reply, err := m.Invoke(t.Context(), pump, call(5*time.Second))
		if err != nil || reply.Status != 200 {
			t.Errorf("%+v, %v", reply, err)
		}
		if _, err := m.Invoke(t.Context(), valve, call(0)); !fault.Is(err, fault.DeviceNotOnline) {
			t.Error(err)
		}
	})
}

func TestErrors(t *testing.T) {
	gone := fault.New(fault.ConnectionClosed, "gone")
	bad := fault.New(fault.BadGateway, "not JSON")
	odd := errors.New("odd")
	for _, c := range []struct {
		name string
		to   *device
		want fault.Code
	}{
		{"no answer", deaf(), fault.GatewayTimeout},
		{"connection ends", failing(gone), fault.ConnectionClosed},
		{"bad answer", failing(bad), fault.BadGateway},
		{"trouble of ours", failing(odd), fault.ServerError},
		{"not wanted", failing(fault.New(fault.DeviceNotOnline, "no such subscription")), fault.DeviceNotOnline},
		{"plain time-out", &device{func(ctx context.Context, _ *method.Call) (method.Reply, error) {
			<-ctx.Done()
			return method.Reply{}, ctx.Err()
		}}, fault.GatewayTimeout},
		{"closed too late", &device{func(ctx context.Context, _ *method.Call) (method.Reply, error) {
			<-ctx.Done()
			return method.Reply{}, gone
		}}, fault.ConnectionClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := New(Config{})
				m.Open(pump, c.to)
				start := time.Now()
				_, err := m.Invoke(t.Context(), pump, call(0))
				if !fault.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if took := time.Since(start); took != 0 && took != 30*time.Second {
					t.Errorf("it took %v", took)
				}
				empty(t, m)
			})
		})
	}
}

func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		m.Open(pump, deaf())
		for id, connect := range map[ident.ID]time.Duration{pump: 0, valve: time.Minute} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			start := time.Now()
			_, err := m.Invoke(ctx, id, call(connect))
			if !fault.Is(err, fault.GatewayTimeout) || time.Since(start) != 2*time.Second {
				t.Errorf("%s: %v after %v", id, err, time.Since(start))
			}
			cancel()
		}
		empty(t, m)
	})
}

// The older connection's end must not take the newer one's place away.
func TestTakeOver(t *testing.T) {
	m := New(Config{})
	older, newer := echo(1), echo(2)
	m.Open(pump, older)
	m.Open(pump, newer)
	m.Shut(pump, older)
	if reply, err := m.Invoke(t.Context(), pump, call(0)); err != nil || reply.Status != 2 {
		t.Errorf("%+v, %v", reply, err)
	}
	m.Shut(pump, newer)
	m.Shut(pump, newer)
	if _, err := m.Invoke(t.Context(), pump, call(0)); !fault.Is(err, fault.DeviceNotOnline) {
		t.Error(err)
	}
	empty(t, m)
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{PerDevice: 2, Overall: 3})
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		hold := func(id ident.ID) {
			waiting.Go(func() { m.Invoke(ctx, id, call(time.Minute)) })
			synctest.Wait()
		}
		hold(pump)
		hold(pump)
		if _, err := m.Invoke(ctx, pump, call(0)); !fault.Is(err, fault.TooManyInflight) {
			t.Errorf("third call of a device: %v", err)
		}
		hold(valve)
		if _, err := m.Invoke(ctx, ident.ID{Device: "x"}, call(0)); !fault.Is(err, fault.TooManyInflight) {
			t.Errorf("fourth call overall: %v", err)
		}
		cancel()
		waiting.Wait()
		empty(t, m)
		if len(m.lines) != 0 {
			t.Errorf("%d lines left", len(m.lines))
		}
	})
}

func TestTurmoil(t *testing.T) {
	m := New(Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var work sync.WaitGroup
	for n := range 8 {
		id := ident.ID{Device: fmt.Sprint(n % 3)}
		work.Go(func() {
			for range 200 {
				if _, err := m.Invoke(ctx, id, call(10*time.Second)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	quit := make(chan struct{})
	var turning sync.WaitGroup
	for n := range 3 {
		id := ident.ID{Device: fmt.Sprint(n)}
		turning.Go(func() {
			for {
				d := echo(200)
				m.Open(id, d)
				select {
				case <-quit:
					m.Shut(id, d)
					return
				default:
					m.Shut(id, d)
				}
			}
		})
	}
	work.Wait()
	close(quit)
	turning.Wait()
	empty(t, m)
}
