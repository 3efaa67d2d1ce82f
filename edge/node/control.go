package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/selvedge-io/selvedge/edge/agent"
	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
)

// ControlSocket is the name of the socket below the data directory over which the
// commands of the device talk to the edge that runs.
const ControlSocket = "control.sock"

// Status is the answer to GET /status.
type Status struct {
	Version  string    `json:"version"`
	Device   string    `json:"device"`
	Hub      string    `json:"hub"`
	Hostname string    `json:"hostname"`
	Started  time.Time `json:"startedUtc"`
	Link     Link      `json:"link"`
	Queue    Queue     `json:"queue"`
	Modules  Modules   `json:"modules"`
}

// Link is the state of the link to the hub.
type Link struct {
	Up    bool      `json:"up"`
	Since time.Time `json:"sinceUtc"`
	Sent  int64     `json:"messagesSent"` // since the start
}

// Queue is what waits for delivery.
type Queue struct {
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
}

// Modules counts modules, the system's own excepted.
type Modules struct {
	Deployed  int `json:"deployed"`
	Running   int `json:"running"`
	Connected int `json:"connections"` // to the broker
}

// modules is what the control socket shows and steers; edge/agent is.
type modules interface {
	Modules() []agent.ModuleState
	// Logs gives a module's log as text; it ends when ctx does.
	Logs(ctx context.Context, module string, q runtime.LogQuery) (io.ReadCloser, error)
	Restart(ctx context.Context, module string) error
}

// listenControl opens the control socket for our own user alone, in place of one that
// is there: whoever holds the lock of the data directory may do so. At no moment may
// anybody else connect, nor is the socket gone once it was there.
func listenControl(dir string) (net.Listener, error) {
	private, err := os.MkdirTemp(dir, ".c") // 0700; short, since paths of sockets must be
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	defer os.RemoveAll(private)
	l, err := net.Listen("unix", filepath.Join(private, "s"))
	if err != nil {
		return nil, fmt.Errorf("open the control socket (the path of the data directory may have about 90 bytes): %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(filepath.Join(private, "s"), 0o600); err == nil {
		err = os.Rename(filepath.Join(private, "s"), filepath.Join(dir, ControlSocket))
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	return l, nil
}

func controlHandler(m modules, status func() Status, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /modules", func(w http.ResponseWriter, _ *http.Request) { answer(w, m.Modules()) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, status()) })
	mux.HandleFunc("GET /modules/{module}/logs", func(w http.ResponseWriter, r *http.Request) {
		q, err := logQuery(r, time.Now())
		if err == nil {
			err = stream(w, r, m, q)
		}
		refuse(w, log, err)
	})
	mux.HandleFunc("POST /modules/{module}/restart", func(w http.ResponseWriter, r *http.Request) {
		err := m.Restart(r.Context(), r.PathValue("module"))
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		refuse(w, log, err)
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}

// refuse answers with an error, if there is one.
func refuse(w http.ResponseWriter, log *slog.Logger, err error) {
	if err == nil {
		return
	}
	if fault.Is(err, fault.ServerError) {
		log.Error("a command failed", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(fault.CodeOf(err).Status())
	answer(w, map[string]string{"message": fault.TextOf(err)})
}

// logQuery reads follow, tail and since; since is a duration before now or a time.
func logQuery(r *http.Request, now time.Time) (q runtime.LogQuery, err error) {
	v := r.URL.Query()
	q.Follow = v.Get("follow") == "1" || v.Get("follow") == "true"
	if tail := v.Get("tail"); tail != "" {
		if q.Tail, err = strconv.Atoi(tail); err != nil || q.Tail < 0 {
			return q, fault.New(fault.ArgumentInvalid, "tail must be a number of lines, not %q", tail)
		}
	}
	since := v.Get("since")
	if since == "" {
		return q, nil
	}
	if d, err := time.ParseDuration(since); err == nil && d >= 0 {
		q.Since = now.Add(-d)
		return q, nil
	}
	if q.Since, err = time.Parse(time.RFC3339, since); err != nil {
		return q, fault.New(fault.ArgumentInvalid, `since must be a duration such as 10m or a time such as 2026-01-31T08:00:00Z, not %q`, since)
	}
	return q, nil
}

// stream sends a log as it comes.
func stream(w http.ResponseWriter, r *http.Request, m modules, q runtime.LogQuery) error {
	text, err := m.Logs(r.Context(), r.PathValue("module"), q)
	if err != nil {
		return err
	}
	defer text.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := http.NewResponseController(w)
	if err := out.Flush(); err != nil {
		return nil // whoever asked has gone
	}
	_, err = io.Copy(flushed{w, out}, text)
	if err != nil && r.Context().Err() == nil && !errors.Is(err, io.ErrClosedPipe) {
		panic(http.ErrAbortHandler) // the headers are out: break off, so that it is seen
	}
	return nil
}

// flushed sends every write at once.
type flushed struct {
	w   io.Writer
	out *http.ResponseController
}

func (f flushed) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.out.Flush()
	}
	return n, err
}
