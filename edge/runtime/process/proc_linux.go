package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unknownExit is the exit code that could not be learned.
const unknownExit = -1

// proc is a process that runs, the leader of a module's session.
type proc struct {
	pid   int
	fd    *os.File      // pidfd; closing it ends wait
	ended chan struct{} // closed when the module's state tells of the end
}

// openProc gets hold of a process.
func openProc(pid int) (*proc, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	// A descriptor that does not block is waited for by Go's poller, without a
	// thread for each module.
	return &proc{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), ended: make(chan struct{})}, nil
}

// wait returns nil when the process has ended, and an error when p.fd was closed.
func (p *proc) wait() error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var trouble error
	err = conn.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			trouble = err
			return true
		}
		return n > 0
	})
	return errors.Join(err, trouble)
}

// signalGroup sends a signal to all in the group that the process leads or led. The
// descriptor names the group beyond doubt; kernels before 6.9 need its number.
func (p *proc) signalGroup(s unix.Signal) error {
	const toGroup = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, toGroup) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.EINVAL) || errors.Is(sent, unix.ENOSYS) || errors.Is(sent, unix.EPERM) {
		sent = unix.Kill(-p.pid, s)
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil // nobody is left
	}
	return sent
}

// closeOnExec keeps descriptors that whoever started us left open from the modules.
// Our own are marked anyway. Kernels before 5.11 cannot do it.
func closeOnExec() { _ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }

// reap takes the exit code of a process that has ended and buries it, with others
// of its group that became our children.
func (p *proc) reap() int {
	code := unknownExit
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-p.pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return code
		}
		if pid == p.pid {
			code = exitCode(status)
		}
	}
}

func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// stat is what we need of /proc/PID/stat.
type stat struct {
	state byte
	start uint64 // ticks since boot
}

// readStat reads how a process is.
func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(raw)
}

// parseStat reads /proc/PID/stat. The second field is a name that may hold anything,
// spaces and parentheses too.
func parseStat(raw []byte) (stat, error) {
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("process status %q has no name", raw)
	}
	f := strings.Fields(string(raw[end+1:])) // from field 3 on
	if len(f) < 20 {
		return stat{}, fmt.Errorf("process status has %d fields after the name", len(f))
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time in process status: %w", err)
	}
	return stat{state: f[0][0], start: start}, nil
}

// bootID is new with every boot of the machine: process ids and start times of
// another boot mean nothing.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// trace is how the processes that a module started are known, whatever group or
// session they made for themselves: they write to its log, or have the home or the
// temporary folder that it was given. None of them may be a person who looks around in
// the module's folder.
type trace struct {
	log fs.FileInfo // nil when there is none
	env [][]byte
}

func traceOf(dir string) trace {
	t := trace{env: [][]byte{
		[]byte("HOME=" + filepath.Join(dir, workFolder)),
		[]byte("TMPDIR=" + filepath.Join(dir, tempFolder)),
	}}
	if info, err := os.Stat(filepath.Join(dir, logFile)); err == nil {
		t.log = info
	}
	return t
}

// killAll ends all processes of a trace, and says how many: the leader of a module may
// have died while its children run on, or we died between starting a module and writing
// that down. Those that are born meanwhile are looked for again.
func (t trace) killAll() (killed int, err error) {
	var errs []error
	seen := map[int]bool{}
	for before := -1; before < len(seen) && len(errs) == 0; {
		before = len(seen)
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return killed, fmt.Errorf("list processes: %w", err)
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() || seen[pid] || !t.has(pid) {
				continue
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue // it ended
			}
			if t.has(pid) { // now certainly the one behind fd
				seen[pid] = true
				if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err == nil {
					killed++
				} else if !errors.Is(err, unix.ESRCH) {
					errs = append(errs, fmt.Errorf("end process %d: %w", pid, err))
				}
			}
			unix.Close(fd)
		}
	}
	return killed, errors.Join(errs...)
}

// has says whether a process is of the trace. Those we may not look into are not ours.
func (t trace) has(pid int) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	for _, n := range []string{"1", "2"} {
		info, err := os.Stat(filepath.Join(proc, "fd", n))
		if err == nil && t.log != nil && os.SameFile(info, t.log) {
			return true
		}
	}
	environ, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		return false
	}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		for _, e := range t.env {
			if bytes.Equal(entry, e) {
				return true
			}
		}
	}
	return false
}
