package door

import (
	"fmt"
	"testing"
	"time"
)

func TestRefusalsAreLimited(t *testing.T) {
	var rs Refusals
	now := time.Now()
	for i := range 2 * refusalLines {
		if ok, _ := rs.allow("192.0.2.1:999", now); ok != (i < refusalLines) {
			t.Fatalf("line %d allowed: %v", i, ok)
		}
	}
	if ok, _ := rs.allow("192.0.2.2:1", now); !ok {
		t.Error("one peer's lines kept another's back")
	}
	if ok, n := rs.allow("192.0.2.1:1", now.Add(refusalPeriod)); !ok || n != refusalLines {
		t.Errorf("next period: %v with %d suppressed, want true with %d", ok, n, refusalLines)
	}
}

// Who has a whole network of addresses may not flood the log either.
func TestRefusalsOfManyHostsAreLimited(t *testing.T) {
	var rs Refusals
	now := time.Now()
	lines := 0
	for i := range 20_000 {
		if ok, _ := rs.allow(fmt.Sprintf("[2001:db8::%x]:1", i), now.Add(time.Duration(i)*time.Microsecond)); ok {
			lines++
		}
	}
	if lines > 2000 || len(rs.lines) > 2000 {
		t.Errorf("%d lines were written and %d hosts remembered", lines, len(rs.lines))
	}
	if ok, n := rs.allow("192.0.2.1:1", now.Add(refusalPeriod)); !ok || n != 20_000-lines {
		t.Errorf("next period: %v with %d suppressed, want true with %d", ok, n, 20_000-lines)
	}
}
