package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// doorman lets in whom it knows.
type doorman map[string]bool

func (d doorman) Device(_ context.Context, c *ident.Claim) (*ident.Principal, error) {
	if !d[c.ID.String()] {
		return nil, fault.New(fault.Unauthorized, "not authorized")
	}
	return &ident.Principal{ID: c.ID}, nil
}

func TestInquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := doorman{"gw/old": true}
		hub := map[string]bool{}
		asked := 0
		var down error
		q := &inquirer{Verifier: known, device: "gw", log: slog.New(slog.DiscardHandler), refresh: func(_ context.Context, ids []string) error {
			asked++
			for _, id := range ids {
				known[id] = hub[id] && down == nil
			}
			return down
		}}
		try := func(device, module string, wantAsked int, ok bool) {
			t.Helper()
			asked = 0
			_, err := q.Device(t.Context(), &ident.Claim{ID: ident.ID{Device: device, Module: module}})
			if (err == nil) != ok || asked != wantAsked {
				t.Errorf("%s/%s: %v after asking %d times, want asked %d times and let in %v", device, module, err, asked, wantAsked, ok)
			}
		}
		try("gw", "old", 0, true)     // known
		try("other", "mod", 0, false) // not ours to ask about
		try("gw", "stranger", 1, false)
		try("gw", "stranger", 0, false) // asked already
		hub["gw/new"] = true
		try("gw", "new", 1, true)
		try("gw", "new", 0, true)

		time.Sleep(inquirePause)
		down = errors.New("no hub")
		hub["gw/later"] = true
		try("gw", "later", 1, false)
		down = nil
		try("gw", "later", 0, false)
		time.Sleep(inquirePause)
		try("gw", "later", 1, true)

		for n := range 2 * inquireMost {
			want := 1
			if n >= inquireMost-1 { // later was the first
				want = 0
			}
			try("gw", fmt.Sprintf("stranger-%d", n), want, false)
		}
	})
}
