package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
)

// Start makes a module run. One that runs with this version already is left alone,
// one with another version is stopped first. Its folder and log stay. Settings that
// cannot work give fault.InvalidConfiguration.
func (d *Driver) Start(ctx context.Context, mod runtime.Module) error {
	if mod.Name == "" {
		return fault.New(fault.InvalidConfiguration, "the module has no name")
	}
	m, err := d.hold(ctx, mod.Name, true)
	if err != nil {
		return err
	}
	defer d.release(m)
	d.mu.Lock()
	running, same := m.proc != nil, m.rec.Version == mod.Version
	d.mu.Unlock()
	if running && same {
		return nil
	}
	s, err := parseSettings(mod.Settings, d.cfg.Builtins)
	if err != nil {
		return err
	}
	cmd, err := d.command(m, mod, s)
	if err != nil {
		return err // and what runs runs on
	}
	if err := d.halt(ctx, m); err != nil {
		return err
	}
	if err := d.spawn(m, mod.Version, cmd); err != nil {
		return fmt.Errorf("start module %s: %w", mod.Name, err)
	}
	return nil
}

// command makes the module's folders and says what to execute.
func (d *Driver) command(m *module, mod runtime.Module, s settings) (*exec.Cmd, error) {
	home, temp := filepath.Join(m.dir, workFolder), filepath.Join(m.dir, tempFolder)
	for _, dir := range []string{home, temp} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of module %s: %w", m.name, err)
		}
	}
	base := map[string]string{"PATH": d.cfg.Path, "HOME": home, "TMPDIR": temp, "LANG": "C.UTF-8"}
	env, err := environment(mod.Env, base)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Dir: home, Env: env, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if s.WorkingDir != "" {
		cmd.Dir = s.WorkingDir
		if info, err := os.Stat(s.WorkingDir); err != nil {
			return nil, fault.Wrap(err, fault.InvalidConfiguration, "workingDir: %v", err)
		} else if !info.IsDir() {
			return nil, fault.New(fault.InvalidConfiguration, "workingDir %s is not a folder", s.WorkingDir)
		}
	}
	if s.Builtin != "" {
		cmd.Path = d.cfg.Self
		cmd.Args = append(append([]string{cmd.Path}, d.cfg.SelfArgs...), s.Builtin)
	} else {
		path := d.cfg.Path
		if own, ok := mod.Env["PATH"]; ok {
			path = own
		}
		if cmd.Path, err = lookUp(s.Command, path, cmd.Dir); err != nil {
			return nil, err
		}
		cmd.Args = []string{s.Command}
	}
	cmd.Args = append(cmd.Args, s.Args...)
	return cmd, nil
}

// spawn starts the process and keeps what is needed to find it again.
func (d *Driver) spawn(m *module, version string, cmd *exec.Cmd) error {
	d.mu.Lock()
	rec, open := m.rec, m.out != nil
	d.mu.Unlock()
	if !open {
		if err := d.listen(m); err != nil {
			return err
		}
	}
	// A descriptor of its own: ours can read the log and make it shorter.
	log, err := os.OpenFile(filepath.Join(m.dir, logFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	rec.Name, rec.Version, rec.Running, rec.Boot = m.name, version, true, d.boot
	rec.Started = time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	rec.PID = cmd.Process.Pid
	// We wait for it ourselves, by descriptor and without a thread.
	if err := cmd.Process.Release(); err != nil {
		return errors.Join(err, undo(rec.PID))
	}
	p, err := openProc(rec.PID)
	if err != nil {
		return errors.Join(err, undo(rec.PID))
	}
	st, err := readStat(rec.PID)
	if err == nil {
		rec.Start = st.start
		err = rec.write(m.dir)
	}
	if err != nil {
		return errors.Join(err, undo(rec.PID), p.fd.Close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m.rec, m.proc = rec, p
	d.tell(rec.state())
	if d.closed {
		return p.fd.Close() // the next driver adopts it
	}
	d.joined.Go(func() { d.attend(m, p) })
	return nil
}

// undo ends a child that nobody attends to.
func undo(pid int) error {
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	for {
		_, err := unix.Wait4(pid, nil, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		return nil
	}
}

// attend waits for the end of a module's process and puts it on record.
func (d *Driver) attend(m *module, p *proc) {
	defer p.fd.Close()
	if err := p.wait(); err != nil {
		if !errors.Is(err, os.ErrClosed) {
			d.log.Error("module cannot be attended to", "module", m.name, "pid", p.pid, "err", err)
		}
		return
	}
	// The others of its group would hold ports and files that its next run needs.
	// Until it is reaped its id cannot be anybody else's.
	if err := p.signalGroup(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrClosed) {
		d.log.Warn("the rest of a module could not be ended", "module", m.name, "err", err)
	}
	code := p.reap()
	d.killStrays(m.dir)

	d.mu.Lock()
	rec := m.rec.ended(code, time.Now())
	d.mu.Unlock()
	if err := rec.write(m.dir); err != nil {
		d.log.Error("end of a module is not on record", "module", m.name, "err", err)
	}
	d.log.Info("module ended", "module", m.name, "pid", p.pid, "code", code)
	d.mu.Lock()
	m.rec, m.proc = rec, nil
	d.tell(rec.state())
	d.mu.Unlock()
	close(p.ended)
}
