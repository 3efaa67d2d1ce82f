package events

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

func open(t testing.TB, cfg Config) *Stream {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func telemetry(device, body string) message.Message {
	return message.Message{Body: []byte(body), System: message.System{ConnectionDevice: device, Source: message.Telemetry}}
}

// put appends one event for each body and waits until they are durable.
func put(t testing.TB, s *Stream, device string, bodies ...string) {
	t.Helper()
	if err := try(s, device, bodies...); err != nil {
		t.Fatal(err)
	}
}

func try(s *Stream, device string, bodies ...string) error {
	var batch []message.Message
	for _, b := range bodies {
		batch = append(batch, telemetry(device, b))
	}
	done := make(chan error, 1)
	s.Append(device, batch, func(err error) { done <- err })
	return <-done
}

func reader(t testing.TB, s *Stream, partition int, from Position) *Reader {
	t.Helper()
	r, err := s.Reader(partition, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// rest gives "sequence:body" of all that a reader has to give now.
func rest(t testing.TB, r *Reader) (all []string) {
	t.Helper()
	for {
		events, err := r.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return all
		}
		for _, e := range events {
			all = append(all, fmt.Sprintf("%d:%s", e.Sequence, e.Message.Body))
		}
	}
}

func TestOrderAndPlace(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Partitions: 4})
	p := s.PartitionOf("dev")
	put(t, s, "dev", "a", "b")
	put(t, s, "DEV", "c") // case does not matter to the partition
	for other := range 4 {
		if i, err := s.Info(other); err != nil || i.Empty != (other != p) {
			t.Errorf("partition %d: %+v, %v", other, i, err)
		}
	}
	events, err := reader(t, s, p, Start()).Next(t.Context())
	if err != nil || len(events) != 3 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, e := range events {
		if e.Partition != p || e.Sequence != int64(i) || time.Since(e.Enqueued) > time.Minute || e.Enqueued.Nanosecond()%1e6 != 0 ||
			string(e.Message.Body) != string("abc"[i]) || e.Message.System.Source != message.Telemetry {
			t.Errorf("event %d: %+v", i, e)
		}
		if i > 0 && e.Offset <= events[i-1].Offset {
			t.Errorf("offset %d after %d", e.Offset, events[i-1].Offset)
		}
	}
	want := Info{Begin: 0, Last: 2, LastOffset: events[2].Offset, LastTime: events[2].Enqueued}
	created := s.Created()
	for range 2 {
		if got, _ := s.Info(p); got != want {
			t.Errorf("info %+v, want %+v", got, want)
		}
		if !s.Created().Equal(created) {
			t.Errorf("created %v, was %v", s.Created(), created)
		}
		s.Close()
		s = open(t, Config{Dir: dir})
	}
	put(t, s, "dev", "d")
	if got := rest(t, reader(t, s, p, Start())); !slices.Equal(got, []string{"0:a", "1:b", "2:c", "3:d"}) {
		t.Errorf("after a restart %q", got)
	}
}

func TestPartitionsAreFixed(t *testing.T) {
	dir := t.TempDir()
	open(t, Config{Dir: dir, Partitions: 2}).Close()
	_, err := Open(Config{Dir: dir, Partitions: 4})
	if err == nil || !strings.Contains(err.Error(), "made with 2 partitions") {
		t.Errorf("error %v", err)
	}
	if s := open(t, Config{Dir: dir}); s.Partitions() != 2 {
		t.Errorf("%d partitions", s.Partitions())
	}
	for _, n := range []int{-1, MaxPartitions + 1} {
		if _, err := Open(Config{Dir: t.TempDir(), Partitions: n}); err == nil {
			t.Errorf("%d partitions are accepted", n)
		}
	}
	s := open(t, Config{Dir: t.TempDir()})
	if s.Partitions() != 4 {
		t.Errorf("%d partitions by default", s.Partitions())
	}
	for _, p := range []int{-1, 4} {
		if _, err := s.Reader(p, Start()); !fault.Is(err, fault.GenericNotFound) {
			t.Errorf("reader of partition %d: %v", p, err)
		}
		if _, err := s.Info(p); !fault.Is(err, fault.GenericNotFound) {
			t.Errorf("info of partition %d: %v", p, err)
		}
	}
}

func TestGroups(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Groups: []string{"billing"}})
	for name, want := range map[string]string{"": DefaultGroup, "$default": DefaultGroup, "Billing": "billing"} {
		if got, err := s.Group(name); got != want || err != nil {
			t.Errorf("Group(%q) = %q, %v", name, got, err)
		}
	}
	if _, err := s.Group("other"); !fault.Is(err, fault.GenericNotFound) {
		t.Errorf("unknown group: %v", err)
	}
	if _, err := s.Follow(t.Context(), Query{Group: "other"}); !fault.Is(err, fault.GenericNotFound) {
		t.Errorf("unknown group followed: %v", err)
	}
}

func TestPositions(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	s := open(t, Config{Dir: t.TempDir(), Partitions: 1, Now: func() time.Time { return now }})
	var offsets []int64
	for i := range 6 { // two events in each millisecond
		now = time.UnixMilli(1_000_000 + int64(i/2)*10)
		put(t, s, "d", string(rune('a'+i)))
		in, _ := s.Info(0)
		offsets = append(offsets, in.LastOffset)
	}
	all := []string{"0:a", "1:b", "2:c", "3:d", "4:e", "5:f"}
	at := func(ms int64) time.Time { return time.UnixMilli(1_000_000 + ms) }
	for name, c := range map[string]struct {
		from Position
		skip int
	}{
		"start":                    {Start(), 0},
		"zero":                     {Position{}, 0},
		"end":                      {End(), 6},
		"before all":               {AtOffset(-1, false), 0},
		"offset 0":                 {AtOffset(0, true), 0},
		"after offset 0":           {AtOffset(0, false), 1},
		"at third":                 {AtOffset(offsets[2], true), 2},
		"after third":              {AtOffset(offsets[2], false), 3},
		"inside third":             {AtOffset(offsets[2]+5, true), 3},
		"after last":               {AtOffset(offsets[5], false), 6},
		"offset of another stream": {AtOffset(1<<62, false), 6},
		"largest offset":           {AtOffset(1<<63-1, false), 6},
		"sequence -1":              {AtSequence(-1, false), 0},
		"sequence 0":               {AtSequence(0, true), 0},
		"after sequence 3":         {AtSequence(3, false), 4},
		"after last sequence":      {AtSequence(5, false), 6},
		"future sequence":          {AtSequence(99, true), 6},
		"largest sequence":         {AtSequence(1<<63-1, false), 6},
		"long ago":                 {AtTime(at(-50), true), 0},
		"zero time":                {AtTime(time.Time{}, false), 0},
		"at second time":           {AtTime(at(10), true), 2},
		"after second time":        {AtTime(at(10), false), 4},
		"between":                  {AtTime(at(5), true), 2},
		"a little later":           {AtTime(at(10).Add(time.Microsecond), true), 4},
		"within the millisecond":   {AtTime(at(10).Add(time.Microsecond), false), 4},
		"in the future":            {AtTime(at(1000), true), 6},
	} {
		if got := rest(t, reader(t, s, 0, c.from)); !slices.Equal(got, all[c.skip:]) {
			t.Errorf("%s: %q, want %q", name, got, all[c.skip:])
		}
	}

	live := reader(t, s, 0, AtSequence(99, true))
	put(t, s, "d", "g")
	if got := rest(t, live); !slices.Equal(got, []string{"6:g"}) {
		t.Errorf("from a number not given out: %q", got)
	}
	now = at(-500) // the clock steps back
	put(t, s, "d", "h")
	if i, _ := s.Info(0); !i.LastTime.Equal(at(20)) {
		t.Errorf("time went back to %v", i.LastTime)
	}
}

func TestNextWaits(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Partitions: 1})
	r := reader(t, s, 0, End())
	got := make(chan string)
	go func() {
		for {
			events, err := r.Next(context.Background())
			if err != nil {
				got <- fmt.Sprint(fault.CodeOf(err))
				return
			}
			for _, e := range events {
				got <- string(e.Message.Body)
			}
		}
	}()
	for _, want := range []string{"a", "b"} {
		put(t, s, "d", want)
		if b := <-got; b != want {
			t.Errorf("read %q, want %q", b, want)
		}
	}
	s.Close()
	if end := <-got; end != fmt.Sprint(fault.Unavailable) {
		t.Errorf("after Close: %s", end)
	}
	if err := try(s, "d", "late"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("append after Close: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = open(t, Config{Dir: t.TempDir(), Partitions: 1})
	if _, err := reader(t, s, 0, End()).Next(ctx); err != context.Canceled {
		t.Errorf("after cancel: %v", err)
	}
}

// The refusal of an empty batch comes in its turn, and a batch may be reused as
// soon as Append has returned.
func TestDoneInOrder(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Partitions: 1})
	const n = 500
	order := make(chan int, n)
	batch := make([]message.Message, 1)
	body := make([]byte, 8)
	for i := range n {
		copy(body, fmt.Sprintf("%08d", i))
		batch[0] = telemetry("d", "")
		batch[0].Body = body
		b := batch
		if i%7 == 3 {
			b = nil
		}
		s.Append("d", b, func(err error) {
			if err != nil {
				t.Error(err)
			}
			order <- i
		})
		clear(body)
	}
	for want := range n {
		if got := <-order; got != want {
			t.Fatalf("done %d came when %d was due", got, want)
		}
	}
	for i, e := range rest(t, reader(t, s, 0, Start())) {
		if !strings.HasPrefix(e, fmt.Sprintf("%d:0", i)) {
			t.Fatalf("event %d is %s", i, e)
		}
	}
}

// Events outlive their numbers' users: when retention has taken all, numbers go on.
func TestRetentionKeepsNumbers(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Partitions: 1, MaxBytes: 4 << 20, TailBytes: 1}
	s := open(t, cfg)
	big := strings.Repeat("x", 200_000)
	for range 40 {
		put(t, s, "d", big)
	}
	before, _ := s.Info(0)
	if before.Last != 39 || before.Begin == 0 || before.Begin > 30 {
		t.Fatalf("info %+v", before)
	}
	r := reader(t, s, 0, AtSequence(3, true)) // gone, so the oldest there is
	events, err := r.Poll()
	if err != nil || len(events) == 0 || events[0].Sequence != before.Begin {
		t.Errorf("%d events from the oldest on, %v", len(events), err)
	}
	events, err = reader(t, s, 0, AtSequence(35, true)).Poll()
	if err != nil || len(events) == 0 || events[0].Sequence != 35 {
		t.Errorf("event 35: %d events, %v", len(events), err)
	}
	s.Close()
	s = open(t, cfg)
	if after, _ := s.Info(0); after != before {
		t.Errorf("after a restart %+v, was %+v", after, before)
	}
}

// The active segment is sealed and all before it is taken: nothing but the note
// knows the numbers.
func TestNumbersWithoutEvents(t *testing.T) {
	for _, lostNote := range []bool{false, true} {
		dir := t.TempDir()
		s := open(t, Config{Dir: dir, Partitions: 1})
		for range 4 { // a whole segment
			put(t, s, "d", strings.Repeat("x", 4<<20))
		}
		was, _ := s.Info(0)
		waitFor(t, func() bool { return len(s.partitions[0].log.Segments()) == 2 })
		s.partitions[0].log.TrimTo(s.partitions[0].log.End())
		if i, _ := s.Info(0); !i.Empty || i.Begin != 4 || i.Last != 3 {
			t.Errorf("emptied: %+v", i)
		}
		s.Close()
		if lostNote {
			if err := s.partitions[0].o.FS.Remove(s.partitions[0].note); err != nil {
				t.Fatal(err)
			}
		}
		s = open(t, Config{Dir: dir})
		i, _ := s.Info(0)
		if !i.Empty || !lostNote && (i.Last != was.Last || i.LastOffset != was.LastOffset || !i.LastTime.Equal(was.LastTime)) {
			t.Errorf("after a restart: %+v, was %+v", i, was)
		}
		put(t, s, "d", "y")
		if i, _ := s.Info(0); i.Last < 4 || !lostNote && i.Last != 4 {
			t.Errorf("lostNote=%v: the next number is %d", lostNote, i.Last)
		}
	}
}

func waitFor(t testing.TB, what func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
	}
}

// Without knowing its partitions the stream does not guess them: devices' events would
// lose their order.
func TestDamagedIdentity(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"", "{", `{"partitions":0}`, `{"partitions":1000}`} {
		if err := os.WriteFile(filepath.Join(dir, identityName), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Config{Dir: dir})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "backup") || !strings.Contains(err.Error(), identityName) {
			t.Errorf("%q: %v", left, err)
		}
	}
}
