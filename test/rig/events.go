package rig

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Event is one message at the hub, as `selvedge events --output json` prints it.
type Event struct {
	Partition  string            `json:"partition"`
	Device     string            `json:"deviceId"`
	Module     string            `json:"moduleId"`
	Enqueued   time.Time         `json:"enqueuedTime"`
	Source     string            `json:"messageSource"`
	System     map[string]any    `json:"systemProperties"`
	Properties map[string]string `json:"properties"`
	Body       json.RawMessage   `json:"body"`
}

// Events follows the hub's event stream with the real command, from an hour ago on.
// The channel is closed when the command ends, by itself or with the test.
func (h *Hub) Events(t testing.TB, flags ...string) <-chan Event {
	t.Helper()
	cmd := exec.Command(Selvedge(), append([]string{"events", "--since", "1h", "--output", "json"}, flags...)...)
	cmd.Env = append(bare(), h.Env()...)
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := make(chan Event, 1024)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(all)
		if err := decode(lines, all, stop); err != nil {
			t.Errorf("read events: %v", err)
		}
	}()
	t.Cleanup(func() {
		close(stop)
		_ = cmd.Process.Kill() // it may have ended
		<-done
		_ = cmd.Wait() // killed
	})
	return all
}

// decode reads one event a line until the stream ends or stop is closed.
func decode(lines io.Reader, into chan<- Event, stop <-chan struct{}) error {
	scan := bufio.NewScanner(lines)
	scan.Buffer(nil, 4<<20)
	for scan.Scan() {
		var e Event
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			return err
		}
		select {
		case into <- e:
		case <-stop:
			return nil
		}
	}
	return nil // a kill cuts the stream off
}
