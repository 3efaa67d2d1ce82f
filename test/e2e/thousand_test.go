package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/test/rig"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// register makes devices with one key in bulk calls of the service API.
func register(t *testing.T, h *rig.Hub, key string, ids []string) {
	t.Helper()
	client := &http.Client{Timeout: rig.Patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for len(ids) > 0 {
		some := ids[:min(100, len(ids))]
		ids = ids[len(some):]
		var items []map[string]any
		for _, id := range some {
			items = append(items, map[string]any{"id": id, "importMode": "create", "status": "enabled", "authentication": map[string]any{
				"type": "sas", "symmetricKey": map[string]string{"primaryKey": key, "secondaryKey": key}}})
		}
		body, err := json.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(rig.Soon(t), "POST", "https://"+h.HTTPS+"/devices?api-version=2021-04-12", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", h.Token(t, time.Now().Add(time.Hour)))
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", res.Status, text)
		}
	}
}

// TestThousandDevices: a thousand devices share an AMQP connection. One comes with an
// expired token and later loses its identity, and the others do not notice.
func TestThousandDevices(t *testing.T) {
	h := rig.StartHub(t, rig.HubOptions{})
	const n, bad = 1000, 500
	const skew = 5 * time.Minute // that a token may be late
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	ids, names, tokens := make([]rig.Identity, n), make([]string, n), make([]string, n)
	for i := range ids {
		names[i] = fmt.Sprintf("one-of-many-%d", i)
		ids[i] = rig.Identity{Host: h.Host, Device: names[i], Key: key}
		tokens[i] = ids[i].Token(time.Now().Add(time.Hour))
	}
	register(t, h, key, names)
	before := h.Memory(t)
	a := h.DialAMQP(t)
	tokens[bad] = ids[bad].Token(time.Now().Add(-skew - time.Minute))
	for i, code := range a.Put(tokens...) {
		if want := map[bool]int64{true: 401, false: 200}[i == bad]; code != want {
			t.Fatalf("the token of %d is answered with %d", i, code)
		}
	}
	detached := make(chan error, n)
	accepted := make(chan int, n)
	attach := func(i int) (*amqp.Sender, error) {
		return a.Sender(rig.Soon(t), amqp.Attaching{Target: &amqp.Target{Address: "/devices/" + names[i] + "/messages/events"}}, amqp.SenderFuncs{
			OnDisposed: func(_ *amqp.Sender, d amqp.Disposition) {
				if d.State.Outcome == amqp.Accepted {
					accepted <- i
				}
			},
			OnDetached: func(_ *amqp.Sender, err error) {
				if a.Conn.Err() == nil {
					detached <- fmt.Errorf("%d: %w", i, err)
				}
			},
		})
	}
	links := make([]*amqp.Sender, n)
	for i := range ids {
		var err error
		links[i], err = attach(i)
		e, refused := errors.AsType[*amqp.Error](err)
		switch {
		case i != bad && err != nil:
			t.Fatalf("the link of %d: %v", i, err)
		case i == bad && (!refused || e.Condition != amqp.ErrUnauthorized):
			t.Fatalf("the link with an expired token: %v", err)
		}
	}
	if code := a.Put(ids[bad].Token(time.Now().Add(time.Hour)))[0]; code != 200 {
		t.Fatalf("its new token is answered with %d", code)
	}
	var err error
	if links[bad], err = attach(bad); err != nil {
		t.Fatal(err)
	}
	send := func(round string, without int) {
		t.Helper()
		want := 0
		for i, l := range links {
			if i == without {
				continue
			}
			m := amqp.Message{Data: [][]byte{fmt.Appendf(nil, "%s of %d", round, i)}}
			b, err := m.Append(nil)
			if err == nil {
				_, err = l.SendWait(rig.Soon(t), amqp.Sending{Payload: b})
			}
			if err != nil {
				t.Fatalf("%s of %d: %v", round, i, err)
			}
			want++
		}
		for range want {
			select {
			case <-accepted:
			case err := <-detached:
				t.Fatalf("%s: detached: %v", round, err)
			case <-time.After(rig.Patience):
				t.Fatalf("%s: not all are accepted", round)
			}
		}
	}
	send("the first", -1)
	h.Must(t, "device", "delete", names[bad])
	select {
	case err := <-detached:
		if e, ok := errors.AsType[*amqp.Error](err); !ok || e.Condition != amqp.ErrUnauthorized {
			t.Errorf("the device that is deleted is detached with %v", err)
		}
	case <-time.After(rig.Patience):
		t.Fatal("the device that is deleted is not detached")
	}
	send("the second", bad)
	if grown := h.Memory(t) - before; grown > 64 {
		t.Errorf("a thousand devices on a connection cost the hub %.0f MB", grown)
	} else {
		t.Logf("a thousand devices on a connection cost the hub %.1f MB", grown)
	}
	seen := map[string]int{}
	events := h.Events(t)
	for range 2*n - 1 {
		select {
		case e := <-events:
			seen[e.Device]++
		case <-time.After(rig.Patience):
			t.Fatalf("%d devices' messages came", len(seen))
		}
	}
	for i, name := range names {
		if want := map[bool]int{true: 1, false: 2}[i == bad]; seen[name] != want {
			t.Errorf("%d messages of %s are at the hub", seen[name], name)
		}
	}
}
