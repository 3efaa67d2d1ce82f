package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
)

// Driver runs modules as processes. Its methods may be called from many goroutines;
// those about one module wait for each other. One driver at a time may use a folder.
type Driver struct {
	cfg  Config
	log  *slog.Logger
	boot string
	spot *spotter

	mu       sync.Mutex
	modules  map[string]*module
	watchers map[*watcher]bool
	closed   bool
	joined   sync.WaitGroup
}

// module is one that was started at some time and not removed.
type module struct {
	name, dir string
	busy      chan struct{} // holds a token while somebody works on it

	// Below under Driver.mu; only who works on it and attend change them.
	rec  record // without a name until it was first started
	proc *proc  // nil when it does not run
	out  *output
	deaf func() // ends the watching of out
}

// New makes a driver and adopts the modules that an earlier one left running.
func New(cfg Config) (*Driver, error) {
	if cfg.Self == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find our own program: %w", err)
		}
		cfg.Self = self
	}
	if cfg.SelfArgs == nil {
		cfg.SelfArgs = []string{"module"}
	}
	cfg.Path = cmp.Or(cfg.Path, os.Getenv("PATH"), defaultPath)
	cfg.LogBytes = cmp.Or(cfg.LogBytes, 10<<20)
	cfg.StopAfter = cmp.Or(cfg.StopAfter, runtime.DefaultStop)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("find folder of modules: %w", err)
	}
	cfg.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of modules: %w", err)
	}
	d := &Driver{cfg: cfg, log: cfg.Log, modules: map[string]*module{}, watchers: map[*watcher]bool{}}
	if d.boot, err = bootID(); err != nil {
		return nil, err
	}
	if self, err := openProc(os.Getpid()); err != nil { // ENOSYS is an errors.ErrUnsupported
		return nil, fmt.Errorf("modules as processes need Linux 5.3 or later: %w", err)
	} else if err := self.fd.Close(); err != nil {
		return nil, err
	}
	closeOnExec()
	if d.spot, err = openSpotter(); err != nil {
		return nil, err
	}
	d.joined.Go(func() {
		if err := d.spot.run(d.look); err != nil {
			d.log.Error("logs of modules are not kept short any more", "err", err)
		}
	})
	if err := d.adopt(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// look has a log looked at; trouble is told once.
func (d *Driver) look(o *output) {
	err := o.look()
	if err != nil && !o.troubled {
		d.log.Warn("log of a module is in trouble", "file", o.file.Name(), "err", err)
	}
	o.troubled = err != nil
}

// adopt takes over what the folder holds.
func (d *Driver) adopt() error {
	entries, err := os.ReadDir(d.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(d.cfg.Dir, e.Name())
		if err := d.adoptFolder(dir); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) adoptFolder(dir string) error {
	rec, err := readRecord(dir)
	if err != nil {
		// Its making or removal broke off, or the disk lost it: nothing says what
		// it is, so it must not go on, and whoever wants it starts it anew.
		d.log.Warn("remains of a module are removed", "dir", dir, "err", err)
		d.killStrays(dir)
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove remains of a module: %w", err)
		}
		return nil
	}
	m := &module{name: rec.Name, dir: dir, busy: make(chan struct{}, 1), rec: rec}
	if rec.Running {
		if m.proc, err = d.find(rec); err != nil {
			return fmt.Errorf("adopt module %s: %w", rec.Name, err)
		}
		if m.proc == nil {
			m.rec = rec.ended(unknownExit, time.Now())
			if err := m.rec.write(dir); err != nil {
				return err
			}
		}
	}
	if m.proc == nil {
		d.killStrays(dir)
	}
	if err := d.listen(m); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.modules[m.name] = m
	if p := m.proc; p != nil {
		d.log.Info("module runs on", "module", m.name, "pid", p.pid)
		d.joined.Go(func() { d.attend(m, p) })
	}
	return nil
}

// find gets hold of the process of a record; nil when it does not run any more.
func (d *Driver) find(rec record) (*proc, error) {
	if rec.Boot != d.boot || rec.PID <= 0 {
		return nil, nil
	}
	p, err := openProc(rec.PID)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, nil // no process has this id, or a thread of another one
	}
	if err != nil {
		return nil, err
	}
	// From here on the descriptor is of one process, whoever that is.
	if st, err := readStat(rec.PID); err != nil || st.start != rec.Start || st.state == 'Z' {
		return nil, p.fd.Close()
	}
	return p, nil
}

// killStrays ends what is left of a module which does not run.
func (d *Driver) killStrays(dir string) {
	n, err := traceOf(dir).killAll()
	if err != nil {
		d.log.Warn("processes that a module left could not be ended", "dir", dir, "err", err)
	}
	if n > 0 {
		d.log.Warn("processes that a module left were ended", "dir", dir, "count", n)
	}
}

// listen opens the output of a module and watches it.
func (d *Driver) listen(m *module) error {
	path := filepath.Join(m.dir, logFile)
	out, err := openOutput(path, d.cfg.LogBytes, d.log)
	if err != nil {
		return err
	}
	deaf, err := d.spot.add(path, out)
	if err != nil {
		return errors.Join(err, out.close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m.out, m.deaf = out, deaf
	return nil
}

// hold waits until nobody else works on a module. Without create, a module that does
// not exist gives nil.
func (d *Driver) hold(ctx context.Context, name string, create bool) (*module, error) {
	for {
		d.mu.Lock()
		m := d.modules[name]
		switch {
		case d.closed:
			d.mu.Unlock()
			return nil, errors.New("the driver is closed")
		case m == nil && !create:
			d.mu.Unlock()
			return nil, nil
		case m == nil:
			m = &module{name: name, dir: filepath.Join(d.cfg.Dir, folderName(name)), busy: make(chan struct{}, 1)}
			d.modules[name] = m
		}
		d.mu.Unlock()
		select {
		case m.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		d.mu.Lock()
		same := d.modules[name] == m
		d.mu.Unlock()
		if same {
			return m, nil
		}
		<-m.busy
	}
}

// release lets others work on a module. One that was never started is forgotten.
func (d *Driver) release(m *module) {
	d.mu.Lock()
	if m.rec.Name == "" && d.modules[m.name] == m {
		delete(d.modules, m.name)
	}
	d.mu.Unlock()
	<-m.busy
}

// Stop ends a module: SIGTERM to its group, and SIGKILL when that does not help in
// time. A module that does not run is fine. When ctx ends first, the module may have
// been told to end.
func (d *Driver) Stop(ctx context.Context, name string) error {
	m, err := d.hold(ctx, name, false)
	if err != nil || m == nil {
		return err
	}
	defer d.release(m)
	return d.halt(ctx, m)
}

func (d *Driver) halt(ctx context.Context, m *module) error {
	d.mu.Lock()
	p := m.proc
	d.mu.Unlock()
	if p == nil {
		return nil
	}
	// SIGCONT so that a suspended process hears it too.
	if err := errors.Join(p.signalGroup(unix.SIGTERM), p.signalGroup(unix.SIGCONT)); err != nil && !ended(p) {
		return fmt.Errorf("stop module %s: %w", m.name, err)
	}
	grace := time.NewTimer(d.cfg.StopAfter)
	defer grace.Stop()
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop module %s: %w", m.name, context.Cause(ctx))
	case <-grace.C:
	}
	d.log.Warn("module does not end by itself and is killed", "module", m.name, "after", d.cfg.StopAfter)
	if err := p.signalGroup(unix.SIGKILL); err != nil && !ended(p) {
		return fmt.Errorf("kill module %s: %w", m.name, err)
	}
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill module %s: %w", m.name, context.Cause(ctx))
	}
}

func ended(p *proc) bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Remove stops a module and removes its folder, log and all. One that does not exist
// is fine.
func (d *Driver) Remove(ctx context.Context, name string) error {
	m, err := d.hold(ctx, name, false)
	if err != nil || m == nil {
		return err
	}
	defer d.release(m)
	if err := d.halt(ctx, m); err != nil {
		return err
	}
	// First of all the record: without it the rest counts for nothing.
	if err := os.Remove(filepath.Join(m.dir, recordFile)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove module %s: %w", name, err)
	}
	d.mu.Lock()
	out, deaf := m.out, m.deaf
	m.out, m.deaf, m.rec = nil, nil, record{}
	d.mu.Unlock()
	if out != nil {
		deaf()
		if err := out.close(); err != nil {
			d.log.Warn("log of a module could not be closed", "module", name, "err", err)
		}
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("remove module %s: %w", name, err)
	}
	return nil
}

// List gives all modules that were started and not removed, by name.
func (d *Driver) List(context.Context) ([]runtime.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.states(), nil
}

// states is List. The caller holds d.mu.
func (d *Driver) states() []runtime.State {
	var all []runtime.State
	for m := range maps.Values(d.modules) {
		if m.rec.Name != "" {
			all = append(all, m.rec.state())
		}
	}
	slices.SortFunc(all, func(a, b runtime.State) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Logs reads what a module wrote, standard output and error together. Times that a
// query names are met within a second or so, for what is old less exactly, and rather
// with too much than too little.
// What is read ends when ctx does or the module is removed.
func (d *Driver) Logs(ctx context.Context, name string, q runtime.LogQuery) (io.ReadCloser, error) {
	d.mu.Lock()
	m := d.modules[name]
	var out *output
	if m != nil {
		out = m.out
	}
	d.mu.Unlock()
	if out == nil {
		return nil, fault.New(fault.ModuleNotFound, "there is no module %q here", name)
	}
	return out.read(ctx, q)
}

// Close stops attending to modules; they run on.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	err := d.spot.close()
	var outs []*output
	for _, m := range d.modules {
		if m.proc != nil {
			m.proc.fd.Close()
		}
		if m.out != nil {
			outs = append(outs, m.out)
		}
	}
	d.mu.Unlock()
	d.joined.Wait()
	for _, o := range outs {
		err = errors.Join(err, o.close())
	}
	return err
}
