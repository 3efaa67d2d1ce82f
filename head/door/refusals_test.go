package door

import (
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
