package server

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestOps(t *testing.T) {
	h := startHub(t, nil)
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + h.at.Ops + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := get(path); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, _ := get("/devices"); status != 404 {
		t.Errorf("something else is served: %d", status)
	}
	c := h.connect(h.config(pump, h.create(pump, `{}`)))
	for range 3 {
		if err := c.Send(t.Context(), text("12345")); err != nil {
			t.Fatal(err)
		}
	}
	_, body := get("/metrics")
	for _, want := range []string{
		"selvedge_hub_connections 1\n", "selvedge_hub_connections_total 1\n", "selvedge_hub_messages_total 3\n",
		"selvedge_hub_message_bytes_total 15\n", "selvedge_hub_commit_seconds_count 3\n",
		`selvedge_hub_commit_seconds_bucket{le="+Inf"} 3` + "\n", "# TYPE selvedge_hub_commit_seconds histogram\n", "go_goroutines ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	line := regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{le="[^"]+"\})? [0-9.e+-]+)$`)
	for l := range strings.Lines(body) {
		if !line.MatchString(strings.TrimSuffix(l, "\n")) {
			t.Errorf("malformed line %q", l)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}
