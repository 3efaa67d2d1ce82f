package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/edge/agent"
	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
)

// fakeEdge has one module, m, whose log is what is written to log.
type fakeEdge struct {
	query     runtime.LogQuery
	log       io.ReadCloser
	restarted string
}

func (f *fakeEdge) Modules() []agent.ModuleState {
	return []agent.ModuleState{{Name: "m", Status: "running"}}
}
func (f *fakeEdge) status() Status { return Status{Device: "gw", Queue: Queue{Messages: 7}} }

func (f *fakeEdge) Logs(_ context.Context, module string, q runtime.LogQuery) (io.ReadCloser, error) {
	if module != "m" {
		return nil, fault.New(fault.ModuleNotFound, "there is no module %s", module)
	}
	f.query = q
	return f.log, nil
}

func (f *fakeEdge) Restart(_ context.Context, module string) error {
	f.restarted = module
	if module == "broken" {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// serveControl serves f on a socket and gives a client for it.
func serveControl(t *testing.T, dir string, f *fakeEdge) *http.Client {
	t.Helper()
	l, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: controlHandler(f, f.status, slog.New(slog.DiscardHandler))}}
	s.Start()
	t.Cleanup(s.Close)
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, ControlSocket))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func ask(t *testing.T, c *http.Client, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://edge"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestControl(t *testing.T) {
	f := &fakeEdge{}
	c := serveControl(t, t.TempDir(), f)
	for _, tc := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/modules", 200, `[{"name":"m","status":"running","statusDescription":"","restartCount":0,"lastStartTimeUtc":"0001-01-01T00:00:00Z","source":""}]`},
		{"GET", "/status", 200, `"device":"gw"`},
		{"POST", "/modules/m/restart", 204, ""},
		{"GET", "/modules/x/logs", 404, `{"message":"there is no module x"}`},
		{"GET", "/modules/m/logs?tail=much", 400, "tail must be a number"},
		{"GET", "/modules/m/logs?tail=-1", 400, "tail must be a number"},
		{"GET", "/modules/m/logs?since=monday", 400, "since must be a duration"},
		{"POST", "/modules/broken/restart", 500, `{"message":"an internal error`},
		{"GET", "/modules/m/restart", 405, ""},
		{"GET", "/", 404, ""},
	} {
		status, body := ask(t, c, tc.method, tc.path)
		if status != tc.status || !strings.Contains(body, tc.body) {
			t.Errorf("%s %s gives %d %s, want %d %s", tc.method, tc.path, status, body, tc.status, tc.body)
		}
	}
	if f.restarted != "broken" {
		t.Errorf("restarted %q", f.restarted)
	}
}

func TestLogQuery(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for query, want := range map[string]runtime.LogQuery{
		"":                                  {},
		"follow=1&tail=5":                   {Follow: true, Tail: 5},
		"since=10m":                         {Since: now.Add(-10 * time.Minute)},
		"since=2026-07-31T00:00:00Z&tail=0": {Since: now.Add(-36 * time.Hour)},
		"since=2026-08-01T14:00:00%2B02:00": {Since: now},
		"follow=true&since=0s":              {Follow: true, Since: now},
	} {
		got, err := logQuery(httptest.NewRequest("GET", "/?"+query, nil), now)
		if err != nil || !got.Since.Equal(want.Since) || got.Follow != want.Follow || got.Tail != want.Tail {
			t.Errorf("%s gives %+v, %v; want %+v", query, got, err, want)
		}
	}
}

func TestLogsComeAsTheyAreWritten(t *testing.T) {
	r, w := io.Pipe()
	f := &fakeEdge{log: r}
	c := serveControl(t, t.TempDir(), f)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://edge/modules/m/logs?follow=1&tail=3", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req) // the headers come before any line
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !f.query.Follow || f.query.Tail != 3 {
		t.Errorf("asked for %+v", f.query)
	}
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(line))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != line {
			t.Fatalf("got %q, %v while the log goes on", got, err)
		}
	}
	w.CloseWithError(os.ErrDeadlineExceeded)
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a log that breaks off looks complete: %q", rest)
	}
}

func TestControlSocketIsPrivateAndReplaced(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, ControlSocket)
	write(t, name, "left by a crash")
	c := serveControl(t, dir, &fakeEdge{})
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("mode is %v", info.Mode())
	}
	if status, _ := ask(t, c, "GET", "/status"); status != 200 {
		t.Errorf("the new socket answers %d", status)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".c*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestControlSocketWithALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if l, err := listenControl(dir); err == nil {
		l.Close()
		t.Error("a path that is too long for a socket is accepted")
	} else if !strings.Contains(err.Error(), "90 bytes") {
		t.Errorf("the error does not say why: %v", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "in use by another edge") {
		t.Errorf("a second lock gives %v", err)
	}
	release()
	again, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
