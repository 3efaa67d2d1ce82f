package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"
	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// dialAMQP opens a TLS connection to the AMQP port for a host name of the hub.
func (h *testHub) dialAMQP(ctx context.Context) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: h.pool, ServerName: "localhost"}}
	return d.DialContext(ctx, "tcp", h.at.AMQP)
}

// consumer is Event Hubs' own client with the hub's connection string for it.
func (h *testHub) consumer(policy, group string) *azeventhubs.ConsumerClient {
	h.t.Helper()
	cs, err := ConnectionString(h.t.Context(), h.cfg.DataDir, "", policy, true)
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := azeventhubs.NewConsumerClientFromConnectionString(cs, "", group, &azeventhubs.ConsumerClientOptions{
		TLSConfig: &tls.Config{RootCAs: h.pool},
		// It knows no port but 5671, save for WebSockets; this is none.
		NewWebSocketConn: func(ctx context.Context, _ azeventhubs.WebSocketConnParams) (net.Conn, error) { return h.dialAMQP(ctx) },
		RetryOptions:     azeventhubs.RetryOptions{MaxRetries: -1},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// partition reads one partition from a position on.
func (h *testHub) partition(c *azeventhubs.ConsumerClient, id string, o azeventhubs.PartitionClientOptions) *azeventhubs.PartitionClient {
	h.t.Helper()
	p, err := c.NewPartitionClient(id, &o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { p.Close(context.Background()) })
	return p
}

// events takes n events.
func (h *testHub) events(p *azeventhubs.PartitionClient, n int) []*azeventhubs.ReceivedEventData {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	got, err := p.ReceiveEvents(ctx, n, nil)
	if err != nil {
		h.t.Fatalf("%d of %d events: %v", len(got), n, err)
	}
	return got
}

func bodies(all []*azeventhubs.ReceivedEventData) string {
	var out []string
	for _, e := range all {
		out = append(out, string(e.Body))
	}
	return strings.Join(out, " ")
}

// say has a device send messages.
func (h *testHub) say(c *client.Client, texts ...string) {
	h.t.Helper()
	for _, body := range texts {
		m := text(body)
		m.System.MessageID, m.System.ContentType, m.System.ContentEncoding = "id-"+body, "text/plain", "utf-8"
		if err := c.Send(h.t.Context(), m); err != nil {
			h.t.Fatal(err)
		}
	}
}

func TestEventHubsClient(t *testing.T) {
	h := startHub(t, func(cfg *Config) { cfg.ConsumerGroups = []string{"second"} })
	device := h.connect(h.config(pump, h.create(pump, `{}`)))
	c := h.consumer("service", azeventhubs.DefaultConsumerGroup)
	hub, err := c.GetEventHubProperties(t.Context(), nil)
	if err != nil || hub.Name != "selvedge" || !slices.Equal(hub.PartitionIDs, []string{"0", "1", "2", "3"}) || time.Since(hub.CreatedOn) > time.Minute {
		t.Fatalf("%+v, %v", hub, err)
	}

	// Live, on all partitions at once.
	found := make(chan string, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var live [4]*azeventhubs.PartitionClient
	for i, id := range hub.PartitionIDs {
		live[i] = h.partition(c, id, azeventhubs.PartitionClientOptions{StartPosition: azeventhubs.StartPosition{Earliest: new(true)}})
		go func() {
			if got, err := live[i].ReceiveEvents(ctx, 1, nil); err == nil {
				found <- id + " " + bodies(got)
			}
		}()
	}
	h.say(device, "first")
	home, body, _ := strings.Cut(next(t, "live event", found), " ")
	if body != "first" {
		t.Fatal(body)
	}
	cancel()

	h.say(device, "second")
	p, err := c.GetPartitionProperties(t.Context(), home, nil)
	if err != nil || p.IsEmpty || p.BeginningSequenceNumber != 0 || p.LastEnqueuedSequenceNumber != 1 || p.PartitionID != home {
		t.Fatalf("%+v, %v", p, err)
	}
	cut := p.LastEnqueuedOn
	eventually(t, "another millisecond", func() bool { return time.Now().UnixMilli() > cut.UnixMilli() })
	h.say(device, "third")

	for name, o := range map[string]struct {
		from azeventhubs.StartPosition
		want string
	}{
		"start":     {azeventhubs.StartPosition{Earliest: new(true)}, "first second third"},
		"sequence":  {azeventhubs.StartPosition{SequenceNumber: new(int64(0))}, "second third"},
		"inclusive": {azeventhubs.StartPosition{SequenceNumber: new(int64(1)), Inclusive: true}, "second third"},
		"offset":    {azeventhubs.StartPosition{Offset: &p.LastEnqueuedOffset}, "third"},
		"time":      {azeventhubs.StartPosition{EnqueuedTime: &cut}, "third"},
	} {
		for _, group := range []string{"$default", "second"} {
			reader := h.partition(h.consumer("iothubowner", group), home, azeventhubs.PartitionClientOptions{StartPosition: o.from})
			got := h.events(reader, strings.Count(o.want, " ")+1)
			if bodies(got) != o.want {
				t.Errorf("from %s for %s: %s", name, group, bodies(got))
			}
			last := got[len(got)-1]
			if last.SequenceNumber != 2 || last.SystemProperties["iothub-connection-device-id"] != "pump" ||
				last.SystemProperties["iothub-message-source"] != "Telemetry" || *last.MessageID != "id-third" || *last.ContentType != "text/plain" ||
				last.SystemProperties["iothub-connection-auth-generation-id"] == "" {
				t.Errorf("%+v %v", last, last.SystemProperties)
			}
			reader.Close(t.Context())
		}
	}
}

func TestEventHubsOwnerLevel(t *testing.T) {
	h := startHub(t, func(cfg *Config) { cfg.Partitions = 1 })
	device := h.connect(h.config(pump, h.create(pump, `{}`)))
	earliest := azeventhubs.StartPosition{Earliest: new(true)}
	h.say(device, "a")
	low := h.partition(h.consumer("service", "$Default"), "0", azeventhubs.PartitionClientOptions{StartPosition: earliest, OwnerLevel: new(int64(1))})
	h.events(low, 1)
	high := h.partition(h.consumer("service", "$Default"), "0", azeventhubs.PartitionClientOptions{StartPosition: earliest, OwnerLevel: new(int64(2))})
	h.events(high, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	lost := func(what string, p *azeventhubs.PartitionClient) {
		t.Helper()
		_, err := p.ReceiveEvents(ctx, 1, nil)
		if e, ok := errors.AsType[*azeventhubs.Error](err); !ok || e.Code != azeventhubs.ErrorCodeOwnershipLost {
			t.Errorf("%s: %v", what, err)
		}
	}
	lost("the lower level", low)
	lost("one that comes later", h.partition(h.consumer("service", "$Default"), "0", azeventhubs.PartitionClientOptions{StartPosition: earliest, OwnerLevel: new(int64(1))}))
	h.say(device, "b")
	if got := bodies(h.events(high, 1)); got != "b" {
		t.Error(got)
	}
}

func TestEventHubsRights(t *testing.T) {
	h := startHub(t, nil)
	for _, policy := range []string{"device", "registryReadWrite"} {
		c := h.consumer(policy, "$Default")
		if _, err := c.GetEventHubProperties(t.Context(), nil); err == nil {
			t.Errorf("%s may ask", policy)
		}
		p := h.partition(c, "0", azeventhubs.PartitionClientOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := p.ReceiveEvents(ctx, 1, nil); err == nil || ctx.Err() != nil {
			t.Errorf("%s may read: %v", policy, err)
		}
		cancel()
	}
}

// service opens a session as old tools do, with SASL PLAIN and a token of a policy.
func (h *testHub) service(policy, password string) (*azure.Session, error) {
	h.t.Helper()
	nc, err := h.dialAMQP(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := azure.NewConn(h.t.Context(), nc, &azure.ConnOptions{HostName: "localhost", SASLType: azure.SASLTypePlain(policy, password)})
	if err != nil {
		nc.Close()
		return nil, err
	}
	h.t.Cleanup(func() { c.Close() })
	return c.NewSession(h.t.Context(), nil)
}

func (h *testHub) mustService(policy, password string) *azure.Session {
	h.t.Helper()
	s, err := h.service(policy, password)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// key is a policy's key in base64.
func (h *testHub) key(policy string) string {
	h.t.Helper()
	text, err := ConnectionString(h.t.Context(), h.cfg.DataDir, "", policy, true)
	if err != nil {
		h.t.Fatal(err)
	}
	cs, err := sas.ParseConnectionString(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return cs.SharedAccessKey
}

func TestMessagesToDevicesOverAMQP(t *testing.T) {
	h := startHub(t, nil)
	key := h.create(pump, `{}`)
	h.create(ident.ID{Device: "idle"}, `{}`)
	s := h.mustService("service@sas.root.localhost", h.token("service"))
	snd, err := s.NewSender(t.Context(), "/messages/devicebound", nil)
	if err != nil {
		t.Fatal(err)
	}
	recv, err := s.NewReceiver(t.Context(), "/messages/serviceBound/feedback", &azure.ReceiverOptions{Credit: 10})
	if err != nil {
		t.Fatal(err)
	}
	send := func(device, id, body string) error {
		return snd.Send(t.Context(), &azure.Message{
			Properties:            &azure.MessageProperties{MessageID: id, To: new("/devices/" + device + "/messages/devicebound")},
			ApplicationProperties: map[string]any{"iothub-ack": "full", "k": "v"}, Data: [][]byte{[]byte(body)},
		}, nil)
	}
	feedback := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		m, err := recv.Receive(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		var records []map[string]string
		if err := json.Unmarshal(m.GetData(), &records); err != nil || len(records) != 1 {
			t.Fatalf("%s, %v", m.GetData(), err)
		}
		r := records[0]
		if got := fmt.Sprint(r["deviceId"], " ", r["originalMessageId"], " ", r["statusCode"]); got != want {
			t.Errorf("feedback %s, want %s", got, want)
		}
		if err := recv.AcceptMessage(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan string, 10)
	device := h.connect(h.config(pump, key))
	if err := device.OnMessage(t.Context(), func(_ context.Context, m *message.Message) error { got <- string(m.Body); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := send("pump", "m1", "hello"); err != nil {
		t.Fatal(err)
	}
	if body := next(t, "message", got); body != "hello" {
		t.Error(body)
	}
	feedback("pump m1 Success")
	if err := send("idle", "m2", "waits"); err != nil {
		t.Fatal(err)
	}
	if n := h.must(200, "DELETE /devices/idle/commands", "")["totalMessagesPurged"]; n != float64(1) {
		t.Errorf("%v were purged", n)
	}
	feedback("idle m2 Purged")
	if err := send("nobody", "m3", "x"); !strings.Contains(fmt.Sprint(err), "amqp:not-found") {
		t.Errorf("to nobody: %v", err)
	}
	for i := range 50 {
		if err := send("idle", fmt.Sprint("q", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := send("idle", "q50", "x"); !strings.Contains(fmt.Sprint(err), "amqp:resource-limit-exceeded") {
		t.Errorf("one too many: %v", err)
	}
	if _, err := s.NewReceiver(t.Context(), "/messages/serviceBound/filenotifications", nil); err != nil {
		t.Errorf("file notifications: %v", err)
	}
}

func TestServiceLinksNeedRights(t *testing.T) {
	h := startHub(t, nil)
	if _, err := h.service("service", h.key("iothubowner")); err == nil {
		t.Error("the key of another policy was taken")
	}
	s := h.mustService("device", h.key("device"))
	for _, address := range []string{"/messages/serviceBound/feedback", "/messages/serviceBound/filenotifications", "messages/events/", "$management", "selvedge/ConsumerGroups/$Default/Partitions/0"} {
		if _, err := s.NewReceiver(t.Context(), address, nil); !strings.Contains(fmt.Sprint(err), "amqp:unauthorized-access") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := s.NewSender(t.Context(), "/messages/devicebound", nil); !strings.Contains(fmt.Sprint(err), "amqp:unauthorized-access") {
		t.Errorf("sending: %v", err)
	}
}

// As clients do that know the hub's address only: they are sent on, with the same key.
func TestRedirectToEventStream(t *testing.T) {
	h := startHub(t, func(cfg *Config) { cfg.Partitions = 1 })
	s := h.mustService("service@sas.root.localhost", h.token("service"))
	recv, err := s.NewReceiver(t.Context(), "messages/events/", nil)
	if err == nil {
		_, err = recv.Receive(t.Context(), nil)
	}
	e, ok := errors.AsType[*azure.LinkError](err)
	if !ok || e.RemoteErr == nil || e.RemoteErr.Condition != "amqp:link:redirect" || e.RemoteErr.Info["hostname"] != "localhost" {
		t.Fatal(err)
	}
	address, _ := e.RemoteErr.Info["address"].(string)
	entity, ok := strings.CutPrefix(address, "amqps://localhost:5671/")
	if !ok {
		t.Fatal(address)
	}
	device := h.connect(h.config(pump, h.create(pump, `{}`)))
	h.say(device, "found")
	recv, err = h.mustService("service", h.key("service")).NewReceiver(t.Context(), entity+"ConsumerGroups/$Default/Partitions/0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if m, err := recv.Receive(ctx, nil); err != nil || string(m.GetData()) != "found" {
		t.Error(err)
	}
}
