package inbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("SELVEDGE_TEST_INBOX"); path != "" {
		fmt.Fprintln(os.Stderr, work(path, os.Getenv("SELVEDGE_TEST_ROUND")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// work sends to four devices, two of which complete what they get, and prints
// "sent BODY" and "got BODY", until it is killed.
func work(path, round string) error {
	ctx := context.Background()
	db, x, err := openAt(ctx, path)
	if err != nil {
		return err
	}
	reg, err := registry.New(ctx, registry.Config{DB: db, Sealer: plain{}})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for i := range 4 {
		id := ident.ID{Device: fmt.Sprint("dev-", i)}
		if _, err := reg.Create(ctx, registry.Spec{ID: id}); err != nil && !fault.Is(err, fault.DeviceAlreadyExists) {
			return err
		}
		if i%2 == 0 {
			settling := make(chan uint64, 1000)
			l := x.Attach(id, func(batch []head.Delivery) {
				for _, d := range batch {
					fmt.Printf("got %s\n", d.Message.Body)
					settling <- d.Token
				}
			})
			l.Open()
			go func() {
				for token := range settling {
					l.Settle(token, head.Completed)
				}
			}()
		}
		go func() {
			for n := 0; ; n++ {
				body := fmt.Sprintf("%s/%d/%d", id.Device, len(round), n)
				if err := x.Send(ctx, id, &message.Message{Body: []byte(body)}); err != nil {
					failed <- err
					return
				}
				fmt.Println("sent", body)
			}
		}()
	}
	return <-failed
}

func openAt(ctx context.Context, path string) (*store.DB, *Inbox, error) {
	db, err := store.Open(ctx, store.Config{Path: path})
	if err != nil {
		return nil, nil, err
	}
	x, err := Open(ctx, Config{DB: db, Depth: 1 << 30})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, x, nil
}

// A hub is killed in the middle of its work, again and again: what was sent waits,
// in order, unless a device had it.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	sent, received := map[string]bool{}, map[string]bool{}
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "SELVEDGE_TEST_INBOX="+path, "SELVEDGE_TEST_ROUND="+strings.Repeat("x", round))
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
			if body, ok := strings.CutPrefix(lines.Text(), "sent "); ok {
				sent[body] = true
			} else if body, ok := strings.CutPrefix(lines.Text(), "got "); ok {
				received[body] = true
			}
			if n == 600+round*97 {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		if cmd.Wait() == nil {
			t.Error("it ended by itself")
		}
		waiting := waitingBodies(t, path)
		for body := range sent {
			if !received[body] && !slices.Contains(waiting, body) {
				t.Fatalf("round %d: %s was sent and is lost", round, body)
			}
		}
		last := map[string][2]int{}
		for _, body := range waiting {
			device, rest, _ := strings.Cut(body, "/")
			var now [2]int
			if _, err := fmt.Sscanf(rest, "%d/%d", &now[0], &now[1]); err != nil {
				t.Fatal(err)
			}
			if was := last[device]; now[0] < was[0] || now[0] == was[0] && now[1] < was[1] {
				t.Fatalf("round %d: %s is out of order", round, body)
			}
			last[device] = now
		}
	}
	if len(sent) < 600 || len(received) < 300 {
		t.Errorf("only %d sent and %d received", len(sent), len(received))
	}
}

// waitingBodies lists what waits, as the inbox would deliver it.
func waitingBodies(t *testing.T, path string) (all []string) {
	t.Helper()
	db, x, err := openAt(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	defer x.Close()
	rows, err := db.Read().Query("SELECT content FROM inbox ORDER BY sequence")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var content []byte
		var m message.Message
		if err := rows.Scan(&content); err != nil {
			t.Fatal(err)
		}
		if err := m.Decode(content); err != nil {
			t.Fatal(err)
		}
		all = append(all, string(m.Body))
	}
	n := 0
	for _, q := range x.queues {
		n += len(q.entries)
	}
	if err := rows.Err(); err != nil || n != len(all) {
		t.Fatalf("memory knows %d messages, the database %d (%v)", n, len(all), err)
	}
	return all
}
