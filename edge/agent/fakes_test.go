package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/twin"
)

// world is a device without processes or a network: what an agent needs, in memory. It
// outlasts agents, as a machine does.
type world struct {
	t *testing.T

	mu      sync.Mutex
	calls   []string // what the agent did, in order
	modules map[string]*fakeModule
	watch   map[int]func(runtime.State)
	watches int
	deaf    bool           // Watch tells nothing
	fails   map[string]int // how often "start NAME" and the like go wrong from now on
	stuck   map[string]chan struct{}
	logs    map[string]string

	desired  string // of the twin
	reported *twin.Object
	reports  []string
	offline  bool // the twin cannot be had
	refuse   func(patch *twin.Object) error

	ids     map[string]string
	syncs   []string
	noSync  error
	sockets map[string]string
	kept    map[string][]byte
}

type fakeModule struct {
	runtime.State
	spec runtime.Module
}

func newWorld(t *testing.T) *world {
	return &world{t: t, modules: map[string]*fakeModule{}, watch: map[int]func(runtime.State){}, fails: map[string]int{},
		stuck: map[string]chan struct{}{}, logs: map[string]string{}, desired: `{"$version":1}`, ids: map[string]string{},
		sockets: map[string]string{}, kept: map[string][]byte{}}
}

// did notes a call, and fails or waits as the test wants.
func (w *world) did(ctx context.Context, format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.calls = append(w.calls, call)
	hold := w.stuck[call]
	w.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails[call] > 0 {
		w.fails[call]--
		return errors.New("cannot " + call)
	}
	return ctx.Err()
}

// took gives the calls since the last time.
func (w *world) took() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.calls, ", ")
	w.calls = nil
	return s
}

func (w *world) change(name string, f func(m *fakeModule)) {
	w.mu.Lock()
	m := w.modules[name]
	f(m)
	state := m.State
	watch := slices.Collect(maps.Values(w.watch))
	if w.deaf {
		watch = nil
	}
	w.mu.Unlock()
	for _, tell := range watch {
		tell(state)
	}
}

// crash ends a module by itself.
func (w *world) crash(name string, code int) {
	w.change(name, func(m *fakeModule) { m.Running, m.ExitCode, m.Exited, m.PID = false, code, time.Now(), 0 })
}

func (w *world) running() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for name, m := range w.modules {
		if m.Running {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// driver is the Driver of a world.
type driver struct{ *world }

func (d driver) Start(ctx context.Context, m runtime.Module) error {
	d.mu.Lock()
	old := d.modules[m.Name]
	same := old != nil && old.Running && old.Version == m.Version
	d.mu.Unlock()
	if same {
		return nil
	}
	if err := d.did(ctx, "start %s", m.Name); err != nil {
		return err
	}
	d.mu.Lock()
	if d.modules[m.Name] == nil {
		d.modules[m.Name] = &fakeModule{State: runtime.State{Name: m.Name}}
	}
	d.mu.Unlock()
	d.change(m.Name, func(f *fakeModule) {
		f.spec, f.Version, f.Running, f.Started, f.PID = m, m.Version, true, time.Now(), 7
	})
	return nil
}

func (d driver) Stop(ctx context.Context, name string) error {
	d.mu.Lock()
	m := d.modules[name]
	running := m != nil && m.Running
	d.mu.Unlock()
	if !running {
		return nil
	}
	if err := d.did(ctx, "stop %s", name); err != nil {
		return err
	}
	d.crash(name, 0)
	return nil
}

func (d driver) Remove(ctx context.Context, name string) error {
	if err := d.did(ctx, "remove %s", name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.modules, name)
	return nil
}

func (d driver) List(ctx context.Context) ([]runtime.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails["list"] > 0 {
		d.fails["list"]--
		return nil, errors.New("cannot list")
	}
	var all []runtime.State
	for _, m := range d.modules {
		all = append(all, m.State)
	}
	return all, ctx.Err()
}

func (d driver) Watch(ctx context.Context, changed func(runtime.State)) error {
	d.mu.Lock()
	if d.fails["watch"] > 0 {
		d.fails["watch"]--
		d.mu.Unlock()
		return errors.New("cannot watch")
	}
	d.watches++
	n := d.watches
	d.watch[n] = changed
	d.mu.Unlock()
	<-ctx.Done()
	d.mu.Lock()
	delete(d.watch, n)
	d.mu.Unlock()
	return ctx.Err()
}

func (d driver) Logs(_ context.Context, name string, q runtime.LogQuery) (io.ReadCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text, ok := d.logs[name]
	if !ok {
		return nil, fault.New(fault.ModuleNotFound, "no log of %s", name)
	}
	if lines := strings.SplitAfter(text, "\n"); q.Tail > 0 && len(lines) > q.Tail+1 {
		text = strings.Join(lines[len(lines)-q.Tail-1:], "")
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// The agent's own twin.

func (w *world) Twin(ctx context.Context) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.offline {
		return nil, errors.New("no twin to be had")
	}
	return []byte(`{"desired":` + w.desired + `,"reported":` + string(twin.WithVersion(w.reported, 3)) + `}`), ctx.Err()
}

func (w *world) Report(_ context.Context, patch []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, err := twin.Parse(patch)
	if err == nil {
		err = twin.CheckReported(o)
	}
	if err == nil && w.refuse != nil {
		err = w.refuse(o)
	}
	if err != nil {
		return err
	}
	w.reports = append(w.reports, string(patch))
	w.reported = twin.Merge(w.reported, o)
	return nil
}

// at reads a value of the reported properties, as JSON.
func (w *world) at(path ...string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := twin.Of(w.reported)
	for _, key := range path {
		o, _ := v.Object()
		var ok bool
		if v, ok = o.Get(key); !ok {
			return "nothing"
		}
	}
	return string(v.AppendJSON(nil))
}

// The identities, the sockets and the store.

func (w *world) Sync(ctx context.Context, want, gone []string) (map[string]string, error) {
	w.mu.Lock()
	hold := w.stuck["sync"]
	w.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.syncs = append(w.syncs, strings.Join(want, " ")+" - "+strings.Join(gone, " "))
	if w.noSync != nil {
		return nil, w.noSync
	}
	all := map[string]string{}
	for _, name := range want {
		if w.ids[name] == "" {
			w.ids[name] = fmt.Sprintf("g-%s-%d", name, len(w.ids)+1)
		}
		all[name] = w.ids[name]
	}
	for _, name := range gone {
		delete(w.ids, name)
	}
	return all, ctx.Err()
}

func (w *world) Ensure(_ context.Context, module, generation string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails["socket "+module] > 0 {
		w.fails["socket "+module]--
		return "", errors.New("no socket")
	}
	w.sockets[module] = generation
	return "unix:///run/" + module + ".sock", nil
}

func (w *world) Drop(module string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sockets, module)
}

func (w *world) Get(key string) ([]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.kept[key]
	return v, ok
}

func (w *world) Put(_ context.Context, key string, value []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails["put"] > 0 {
		w.fails["put"]--
		return errors.New("disk full")
	}
	w.kept[key] = slices.Clone(value)
	return nil
}

// reversed is a Sealer that is easy to see through.
type reversed struct{}

func (reversed) Seal(b []byte) ([]byte, error) { return turn(b), nil }
func (reversed) Open(b []byte) ([]byte, error) { return turn(b), nil }

func turn(b []byte) []byte {
	out := slices.Clone(b)
	slices.Reverse(out)
	return out
}

// agent is an agent that runs in a world.
type agent struct {
	*Agent
	*world
	stop func() // and wait until it has
}

// start runs an agent, and waits until it has nothing to do.
func (w *world) start(change ...func(*Config)) *agent {
	w.t.Helper()
	cfg := Config{
		Twin: w, Drivers: map[string]Driver{"process": driver{w}}, Identities: w, Sockets: w, Store: w, Seal: reversed{},
		Host:    Host{Device: "gw", Hub: "hub.example.net", Gateway: "gw.local", Extra: map[string]string{"SELVEDGE_GATEWAY_MQTT": "mqtts://gw.local:18883"}},
		Version: "0.1", Commit: "abc",
	}
	for _, c := range change {
		c(&cfg)
	}
	a := &agent{Agent: New(cfg), world: w}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run ended with %v", err)
		}
	}
	synctest.Wait()
	return a
}

// deploy changes the desired properties and waits until the agent is through with it.
func (a *agent) deploy(version int, modules string) {
	a.mustDesire(fmt.Sprintf(`{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{}},"modules":{%s},"$version":%d}`, modules, version))
}

func (a *agent) mustDesire(desired string) {
	a.world.t.Helper()
	if !json.Valid([]byte(desired)) {
		a.world.t.Fatalf("not JSON: %s", desired)
	}
	a.world.mu.Lock()
	a.world.desired = desired
	a.world.mu.Unlock()
	a.Changed()
	synctest.Wait()
}

// pass lets time pass and waits until the agent is through with what that brings.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// mod is a module of a manifest.
func mod(name, more string) string {
	return fmt.Sprintf(`%q:{"type":"process","status":"running","restartPolicy":"always","settings":{"command":"/bin/%s"}%s}`, name, name, more)
}

func (w *world) expect(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}
