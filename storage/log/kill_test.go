package log_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/storage/log"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SELVEDGE_TEST_LOG"); dir != "" {
		fmt.Fprintln(os.Stderr, appendForever(dir, os.Getenv("SELVEDGE_TEST_ROUND")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// appendForever prints every record that was acknowledged, until it is killed.
func appendForever(dir, round string) error {
	l, err := log.Open(dir, log.Options{SegmentBytes: 50_000})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				p := fmt.Sprintf("%s/%d/%d", round, w, i)
				if err := put(l, p+strings.Repeat(" ", i%300)); err != nil {
					failed <- err
					return
				}
				fmt.Println(p)
			}
		}()
	}
	return <-failed
}

// A process is killed in the middle of its work, again and again.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	var acked []string
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "SELVEDGE_TEST_LOG="+dir, fmt.Sprint("SELVEDGE_TEST_ROUND=", round))
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if acked = append(acked, lines.Text()); n == 300+round*97 {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		if cmd.Wait() == nil {
			t.Error("it ended by itself")
		}
		l := open(t, dir, log.Options{})
		held := map[string]bool{}
		for _, p := range readAll(t, l) {
			held[strings.TrimSpace(p)] = true
		}
		l.Close()
		for _, p := range acked {
			if !held[p] {
				t.Fatalf("round %d: %s was acknowledged and is lost", round, p)
			}
		}
	}
	if len(acked) < 1500 {
		t.Errorf("only %d records", len(acked))
	}
}
