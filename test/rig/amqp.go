package rig

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/wire/amqp"
)

// AMQP is an AMQP connection with one session, which knows how to put tokens and
// nothing else of Azure's.
type AMQP struct {
	*amqp.Conn
	*amqp.Session

	t       testing.TB
	tokens  *amqp.Sender
	answers chan answer
	asked   uint64
}

type answer struct {
	id   uint64
	code int64
}

// DialTLS opens the network connection to address, trusting the hub, and sends nothing.
func (h *Hub) DialTLS(t testing.TB, address string) *tls.Conn {
	t.Helper()
	cfg, err := Identity{Host: h.Host, CA: h.CA}.tls()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// DialAMQP connects to the hub. The connection ends with the test.
func (h *Hub) DialAMQP(t testing.TB) *AMQP {
	t.Helper()
	ctx := Soon(t)
	conn, err := amqp.Connect(ctx, h.DialTLS(t, h.AMQP), amqp.Config{Hostname: h.Host, MaxLinks: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(nil); <-conn.Done() })
	session, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &AMQP{Conn: conn, Session: session, t: t}
}

// Soon is the context of one step of a test.
func Soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Put puts tokens on $cbs, all before the first answer, and gives the status codes in
// their order.
func (a *AMQP) Put(tokens ...string) []int64 {
	a.t.Helper()
	ctx := Soon(a.t)
	if a.tokens == nil {
		a.answers = make(chan answer, 10_000)
		_, err := a.Receiver(ctx, amqp.Attaching{Source: &amqp.Source{Address: "$cbs"}}, amqp.Receiving{Window: 1000}, amqp.ReceiverFuncs{
			OnDelivered: func(r *amqp.Receiver, d amqp.Delivery) {
				var m amqp.Message
				if m.Decode(d.Payload) == nil {
					id, _ := m.Properties.CorrelationID.(uint64)
					code, _ := m.ApplicationProperties.Integer("status-code")
					a.answers <- answer{id, code}
				}
				_ = r.Settle(d.ID, amqp.State{Outcome: amqp.Accepted}) // the connection may be over
			},
		})
		if err != nil {
			a.t.Fatal(err)
		}
		if a.tokens, err = a.Sender(ctx, amqp.Attaching{Target: &amqp.Target{Address: "$cbs"}}, amqp.SenderFuncs{}); err != nil {
			a.t.Fatal(err)
		}
	}
	first := a.asked
	for _, token := range tokens {
		m := amqp.Message{
			Properties:            amqp.Properties{MessageID: a.asked},
			ApplicationProperties: amqp.Map{{Key: "operation", Value: "put-token"}, {Key: "type", Value: "servicebus.windows.net:sastoken"}, {Key: "name", Value: "unused"}},
			Value:                 token, HasValue: true,
		}
		a.asked++
		b, err := m.Append(nil)
		if err == nil {
			_, err = a.tokens.SendWait(ctx, amqp.Sending{Payload: b})
		}
		if err != nil {
			a.t.Fatal(err)
		}
	}
	codes := make([]int64, len(tokens))
	for range tokens {
		select {
		case got := <-a.answers:
			codes[got.id-first] = got.code
		case <-ctx.Done():
			a.t.Fatal("a token is not answered")
		}
	}
	return codes
}

// Token is a shared access signature of the policy in the hub's connection string, for
// all of the hub.
func (h *Hub) Token(t testing.TB, expiry time.Time) string {
	t.Helper()
	parts := map[string]string{}
	for part := range strings.SplitSeq(h.Service, ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	key, err := base64.StdEncoding.DecodeString(parts["SharedAccessKey"])
	if err != nil {
		t.Fatal(err)
	}
	resource := url.QueryEscape(parts["HostName"])
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\n%d", resource, expiry.Unix())
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d&skn=%s", resource,
		url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), expiry.Unix(), parts["SharedAccessKeyName"])
}

// Memory is what the process occupies, in MB.
func (p *Process) Memory(t testing.TB) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatal("the system does not say how much memory the process occupies")
	return 0
}
