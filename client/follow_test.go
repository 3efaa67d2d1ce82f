package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/twin"
)

// TestFollowerTake judges changes by their version alone.
func TestFollowerTake(t *testing.T) {
	doc, err := twin.Parse([]byte(`{"a":1,"b":{"c":2}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		version int64
		patch   string
		ok      bool
		want    string
	}{
		{6, `{"a":null,"b":{"d":3},"$version":6}`, true, `6 {"b":{"c":2,"d":3},"$version":6}`},
		{5, `{"a":9,"$version":5}`, true, ""},
		{4, `{"a":9,"$version":4}`, true, ""},
		{7, `{"a":9,"$version":7}`, false, ""},
		{0, ``, false, ""},
		{6, `not JSON`, false, ""},
	} {
		var told []string
		f := follower{
			c:    &Client{cfg: Config{}.withDefaults()},
			last: &desiredState{seen: true, version: 5, doc: doc},
			handle: func(_ context.Context, version int64, desired []byte) {
				told = append(told, fmt.Sprint(version, " ", string(desired)))
			},
		}
		if ok := f.take(change{test.version, []byte(test.patch)}); ok != test.ok || strings.Join(told, "; ") != test.want {
			t.Errorf("take(%d %s) = %v and told %q, want %v and %q", test.version, test.patch, ok, told, test.ok, test.want)
		}
	}
}

// TestFollowerNote overfills the queue: the connection is not held up, and it shows
// that something is missing.
func TestFollowerNote(t *testing.T) {
	f := follower{changes: make(chan change, 4)}
	patch := []byte("x")
	for v := range int64(10) {
		f.note(v+1, patch)
		patch[0]++ // it is valid during the call only
	}
	missed := false
	for range 4 {
		missed = (<-f.changes).version == 0 || missed
	}
	if !missed {
		t.Error("nothing shows that changes were lost")
	}
}
