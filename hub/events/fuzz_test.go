package events

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/selvedge-io/selvedge/model/message"
)

// FuzzDecode reads stored events, and writes what it can read again.
func FuzzDecode(f *testing.F) {
	m := telemetry("dev", `{"t":21.5}`)
	m.Properties = []message.Property{{Name: "n", Value: "v"}}
	f.Add(m.Append(appendHead(nil, 17, 1_700_000_000_000)))
	f.Add(appendHead(nil, -1, -1))
	f.Add([]byte{})
	var w writer
	f.Fuzz(func(t *testing.T, in []byte) {
		var e Event
		if e.decode(in) != nil {
			return
		}
		once := e.Message.Append(appendHead(nil, e.Sequence, e.Enqueued.UnixMilli()))
		var again Event
		if err := again.decode(once); err != nil {
			t.Fatalf("%x: %v", once, err)
		}
		if twice := again.Message.Append(appendHead(nil, again.Sequence, again.Enqueued.UnixMilli())); !bytes.Equal(once, twice) {
			t.Fatalf("%x is not stable: %x", once, twice)
		}
		w.reset()
		w.event(&e)
		if bytes.Count(w.line, []byte("\n")) != 1 || !json.Valid(w.line) {
			t.Fatalf("not a line of JSON: %q", w.line)
		}
	})
}
