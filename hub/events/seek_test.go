package events

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/storage/faultfs"
)

// A reader far into a large log opens the segment it needs and not those before.
func TestSeekReadsLittle(t *testing.T) {
	var mu sync.Mutex
	var opened []string
	files := &faultfs.FS{Fail: func(op faultfs.Op, name string) error {
		if op == faultfs.Open && filepath.Ext(name) == ".log" {
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, name)
		}
		return nil
	}}
	clock := time.UnixMilli(1000)
	cfg := Config{Dir: t.TempDir(), Partitions: 1, MaxBytes: 8 << 20, TailBytes: 1, FS: files, Now: func() time.Time { return clock }} // segments of 1 MiB
	s := open(t, cfg)
	for range 70 {
		clock = clock.Add(time.Second)
		put(t, s, "d", strings.Repeat("x", 100<<10))
	}
	for restart := range 2 {
		for want := range int64(65) {
			for name, from := range map[string]Position{
				"sequence": AtSequence(want, true),
				"time":     AtTime(time.UnixMilli(2000+1000*want), true),
			} {
				mu.Lock()
				opened = nil
				mu.Unlock()
				events, err := reader(t, s, 0, from).Poll()
				if err != nil || len(events) == 0 || events[0].Sequence != want {
					t.Fatalf("%s %d: %d events, %v", name, want, len(events), err)
				}
				// The time at which a segment begins may be that of the one before too.
				if slices.Sort(opened); len(slices.Compact(opened)) > 2 || name == "sequence" && len(slices.Compact(opened)) > 1 {
					t.Errorf("%s %d, restart %d: opened %q", name, want, restart, opened)
				}
			}
		}
		s.Close()
		s = open(t, cfg)
	}
}
