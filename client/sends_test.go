package client

import (
	"slices"
	"testing"

	"github.com/selvedge-io/selvedge/model/message"
)

// TestSendsToldLate has the acknowledgement of a lost connection come when the next
// one has the batch again: it counts once, and takes nothing else out.
func TestSendsToldLate(t *testing.T) {
	var q sends
	q.init(func(*message.Message) error { return nil }, 100, 1<<20)
	var done []string
	add := func(name string) *sending {
		p, err := q.add(t.Context(), []message.Message{text(name)}, func(err error) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			done = append(done, name)
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	next := func(want *sending) {
		t.Helper()
		if p, ok := q.next(t.Context()); !ok || p != want {
			t.Fatalf("handed out %v, want %v", p, want)
		}
	}
	a, b, c := add("a"), add("b"), add("c")
	next(a)
	next(b)
	q.lost()
	next(a)
	q.ended(a, nil) // of the first connection
	q.ended(a, nil) // of the second
	next(b)
	next(c)
	q.ended(b, nil)
	q.lost()
	next(c)
	q.ended(c, nil)
	if want := []string{"a", "b", "c"}; !slices.Equal(done, want) || len(q.queue) != 0 || q.handed != 0 || q.messages != 0 || q.bytes != 0 {
		t.Errorf("done %v, want %v; left %d handed %d", done, want, len(q.queue), q.handed)
	}
}
