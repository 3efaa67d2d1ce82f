package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// openAuth believes what a token says: "SharedAccessSignature sig=KEY&skn=POLICY",
// with the key itself as its signature.
type openAuth struct{ dir auth.Directory }

func (o openAuth) Service(ctx context.Context, authorization, _ string, need auth.Right) (string, error) {
	_, name, _ := strings.Cut(authorization, "skn=")
	p, err := o.dir.Policy(ctx, name)
	if err != nil || p.Rights&need == 0 {
		return "", fault.New(fault.UnauthorizedAccess, "the policy does not allow this")
	}
	return name, nil
}

func (o openAuth) DeviceToken(ctx context.Context, token string, of ident.ID) error {
	rec, err := o.dir.Identity(ctx, of)
	if err != nil || !strings.Contains(token, "sig="+rec.Keys[0]) {
		return fault.New(fault.Unauthorized, "no")
	}
	return nil
}

func (o openAuth) Device(context.Context, *ident.Claim) (*ident.Principal, error) {
	return nil, fault.New(fault.Unauthorized, "no")
}

// devices stands for whatever is behind the API: it answers methods by name and
// keeps what is sent.
type devices struct {
	mu     sync.Mutex
	calls  []method.Call
	inbox  map[ident.ID][]message.Message
	events []string
	asked  EventQuery
}

func (d *devices) Invoke(_ context.Context, _ ident.ID, c *method.Call) (method.Reply, error) {
	d.mu.Lock()
	d.calls = append(d.calls, *c)
	d.mu.Unlock()
	switch c.Name {
	case "offline":
		return method.Reply{}, fault.New(fault.DeviceNotOnline, "it is not connected")
	case "slow":
		return method.Reply{}, fault.New(fault.GatewayTimeout, "no answer in time")
	case "gone":
		return method.Reply{}, fault.New(fault.ConnectionClosed, "it went away")
	case "busy":
		return method.Reply{}, fault.New(fault.TooManyInflight, "too many calls")
	case "garbage":
		return method.Reply{Status: 200, Payload: json.RawMessage("{")}, nil
	case "broken":
		return method.Reply{}, fmt.Errorf("secret inner trouble")
	case "silent":
		return method.Reply{Status: 501}, nil
	}
	return method.Reply{Status: 200, Payload: c.Payload}, nil
}

func (d *devices) Send(_ context.Context, to ident.ID, m *message.Message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.inbox[to]) == 50 {
		return fault.New(fault.QueueFull, "50 messages wait already")
	}
	if d.inbox == nil {
		d.inbox = map[ident.ID][]message.Message{}
	}
	d.inbox[to] = append(d.inbox[to], *m)
	return nil
}

func (d *devices) Purge(_ context.Context, of ident.ID) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.inbox[of])
	delete(d.inbox, of)
	return n, nil
}

func (d *devices) Waiting(_ context.Context, of ident.ID) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.inbox[of]), nil
}

func (d *devices) Follow(ctx context.Context, q EventQuery) (iter.Seq2[[]byte, error], error) {
	d.asked = q
	if q.Group == "nobodys" {
		return nil, fault.New(fault.GenericNotFound, "there is no consumer group %q", q.Group)
	}
	return func(yield func([]byte, error) bool) {
		for _, e := range d.events {
			if !yield([]byte(e+"\n"), nil) {
				return
			}
		}
		if q.Count == 0 {
			<-ctx.Done()
		}
	}, nil
}

type hub struct {
	*httptest.Server
	t   testing.TB
	dev *devices
	reg *registry.Registry
	log *bytes.Buffer
}

// open keeps keys as they are; sealing is the registry's own test.
type plain struct{}

func (plain) Seal(b []byte) ([]byte, error) { return b, nil }
func (plain) Open(b []byte) ([]byte, error) { return b, nil }

func start(t testing.TB) *hub {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "hub.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	reg, err := registry.New(t.Context(), registry.Config{DB: db, Sealer: plain{}})
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, dev: &devices{}, reg: reg, log: &bytes.Buffer{}}
	h.Server = httptest.NewServer(New(Config{Auth: openAuth{reg}, Registry: reg, Twins: twins.New(twins.Config{DB: db}),
		Methods: h.dev, Inbox: h.dev, Events: h.dev, Log: slog.New(slog.NewTextHandler(&locked{w: h.log}, nil))}))
	t.Cleanup(h.Close)
	return h
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// reply is an answer, read whole.
type reply struct {
	*http.Response
	body []byte
}

// ask calls "METHOD path" as a policy; header pairs follow. A body of "" is none.
func (h *hub) ask(policy, what, body string, header ...string) reply {
	h.t.Helper()
	verb, path, _ := strings.Cut(what, " ")
	if !strings.Contains(path, "api-version") {
		if path += "?"; strings.Count(path, "?") > 1 {
			path = strings.TrimSuffix(path, "?") + "&"
		}
		path += "api-version=2021-04-12"
	}
	req, err := http.NewRequestWithContext(h.t.Context(), verb, h.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if policy != "" {
		req.Header.Set("Authorization", "SharedAccessSignature sr=localhost&sig=x&se=9&skn="+policy)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := h.Client().Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return reply{resp, text}
}

// must is ask as the owner, wanting a status, with the answer as generic JSON.
func (h *hub) must(status int, what, body string, header ...string) map[string]any {
	h.t.Helper()
	r := h.ask("iothubowner", what, body, header...)
	if r.StatusCode != status {
		h.t.Fatalf("%s %s: %d %s", what, body, r.StatusCode, r.body)
	}
	var doc map[string]any
	if len(r.body) > 0 && r.body[0] == '{' {
		if err := json.Unmarshal(r.body, &doc); err != nil {
			h.t.Fatalf("%s: %v in %s", what, err, r.body)
		}
	}
	return doc
}

// code is the error name that the answer carries; both places must agree.
func (r reply) code(t testing.TB) string {
	t.Helper()
	name := r.Header.Get("iothub-errorcode")
	var outer struct{ Message, ExceptionMessage string }
	if err := json.Unmarshal(r.body, &outer); err != nil {
		t.Errorf("error body %s: %v", r.body, err)
		return name
	}
	if r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("content type %q", r.Header.Get("Content-Type"))
	}
	if strings.HasPrefix(outer.Message, "{") {
		var inner struct {
			ErrorCode    fault.Code
			TrackingID   string
			TimestampUTC time.Time
		}
		if err := json.Unmarshal([]byte(outer.Message), &inner); err != nil || inner.ErrorCode.Name() != name ||
			inner.TrackingID == "" || inner.TimestampUTC.IsZero() || outer.ExceptionMessage != "" || inner.ErrorCode.Status() != r.StatusCode {
			t.Errorf("inner error %s does not fit header %q and status %d (%v)", outer.Message, name, r.StatusCode, err)
		}
	} else if !strings.HasPrefix(outer.Message, "ErrorCode:"+name+";") || !strings.HasPrefix(outer.ExceptionMessage, "Tracking ID:") {
		t.Errorf("error %s does not fit header %q", r.body, name)
	}
	return name
}
