package events

import (
	"fmt"
	"strings"
	"testing"
)

func TestLookup3(t *testing.T) {
	for _, c := range []struct {
		key  string
		c, b uint32
	}{ // published with the algorithm
		{"", 0xdeadbeef, 0xdeadbeef},
		{"Four score and seven years ago", 0x17770551, 0xce7226e6},
	} {
		if gotC, gotB := lookup3([]byte(c.key)); gotC != c.c || gotB != c.b {
			t.Errorf("%q: %08x %08x, want %08x %08x", c.key, gotC, gotB, c.c, c.b)
		}
	}
}

func TestPartitionOf(t *testing.T) {
	for _, count := range []int{1, 2, 3, 4, 7, 32, MaxPartitions} {
		seen := map[int]int{}
		for i := range 200 * count {
			id := fmt.Sprintf("Device-%d", i)
			p := PartitionOf(id, count)
			if p < 0 || p >= count {
				t.Fatalf("%d partitions: %q in %d", count, id, p)
			}
			if other := PartitionOf(strings.ToUpper(id), count); other != p {
				t.Fatalf("%q in %d, upper-cased in %d", id, p, other)
			}
			seen[p]++
		}
		for p := range count {
			if seen[p] < 100 {
				t.Errorf("%d partitions: only %d of %d devices in %d", count, seen[p], 200*count, p)
			}
		}
	}
	if PartitionOf(strings.Repeat("long", 100), 4) > 3 {
		t.Error("a long id has no partition")
	}
}
