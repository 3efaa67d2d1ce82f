package api

import (
	"bytes"
	"encoding/json"
	"iter"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// invoke calls a direct method (service-protocol 7).
func (a *api) invoke(c *call) error {
	m, err := c.method()
	if err != nil {
		return err
	}
	if _, err := a.Registry.Get(c.r.Context(), c.id); err != nil {
		return err
	}
	reply, err := a.Methods.Invoke(c.r.Context(), c.id, m)
	if err != nil {
		switch fault.CodeOf(err) {
		case fault.DeviceNotOnline:
			return waited{err, m.ConnectTimeout}
		case fault.GatewayTimeout:
			return waited{err, m.ResponseTimeout}
		}
		return err
	}
	a.audit(c, "invoke method", "name", m.Name, "status", reply.Status)
	payload := reply.Payload
	if len(bytes.TrimSpace(payload)) == 0 {
		payload = json.RawMessage("null")
	}
	if !json.Valid(payload) {
		return fault.New(fault.BadGateway, "the device answered with something that is not JSON")
	}
	out := strconv.AppendInt([]byte(`{"status":`), int64(reply.Status), 10)
	out = append(append(out, `,"payload":`...), payload...)
	writeJSON(c.w, http.StatusOK, append(out, '}'))
	return nil
}

func (c *call) method() (*method.Call, error) {
	var body struct {
		Name     string          `json:"methodName"`
		Payload  json.RawMessage `json:"payload"`
		Response *float64        `json:"responseTimeoutInSeconds"`
		Connect  *float64        `json:"connectTimeoutInSeconds"`
		Older    *float64        `json:"timeoutInSeconds"` // of old clients
	}
	if err := c.object(&body); err != nil {
		return nil, err
	}
	m := &method.Call{Name: body.Name, Payload: body.Payload, ResponseTimeout: method.DefaultResponseTimeout}
	if body.Older != nil && body.Response == nil {
		body.Response = body.Older
	}
	var err error
	if body.Response != nil {
		if m.ResponseTimeout, err = seconds("responseTimeoutInSeconds", *body.Response); err != nil {
			return nil, err
		}
	}
	if body.Connect != nil {
		if m.ConnectTimeout, err = seconds("connectTimeoutInSeconds", *body.Connect); err != nil {
			return nil, err
		}
	}
	return m, m.Check()
}

func seconds(name string, v float64) (time.Duration, error) {
	if v != math.Trunc(v) || math.Abs(v) > 1e6 {
		return 0, fault.New(fault.ArgumentInvalid, "%s must be a whole number of seconds", name)
	}
	return time.Duration(v) * time.Second, nil
}

// Header names of a message, lower case (device-protocol 7.2). HTTP does not keep
// the case of header names; names that need it come in iothub-properties, as
// name=value pairs, percent-encoded and joined by &.
const (
	headerApp        = "iothub-app-"
	headerProperties = "iothub-properties"
)

// sendToDevice queues a cloud-to-device message.
func (a *api) sendToDevice(c *call) error {
	h := c.r.Header
	to, err := message.Recipient(h.Get("iothub-to"), func(id ident.ID) error {
		_, err := a.Registry.Get(c.r.Context(), id)
		return err
	})
	if err != nil {
		return err
	}
	c.id = to
	m := message.Message{Body: c.body, System: message.System{MessageID: h.Get("iothub-messageid"),
		CorrelationID: h.Get("iothub-correlationid"), UserID: h.Get("iothub-userid"), ContentType: h.Get("iothub-contenttype"),
		ContentEncoding: h.Get("iothub-contentencoding"), To: "/devices/" + to.Device + "/messages/devicebound"}}
	if m.System.Ack, err = message.ReadAck(h.Get("iothub-ack")); err != nil {
		return err
	}
	if m.System.Expiry, err = a.expiry(h.Get("iothub-expiry")); err != nil {
		return err
	}
	if m.Properties, err = properties(h); err != nil {
		return err
	}
	if n := m.Size(); n > message.MaxToDevice {
		return fault.New(fault.MessageTooLarge, "the message has %d bytes, the most is %d", n, message.MaxToDevice)
	}
	if err := a.Inbox.Send(c.r.Context(), to, &m); err != nil {
		return err
	}
	a.audit(c, "send message", "id", m.System.MessageID)
	return c.done()
}

func (a *api) expiry(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fault.New(fault.ArgumentInvalid, "iothub-expiry %q is not a time such as 2026-01-31T08:00:00Z", s)
	}
	if !t.After(a.Now()) {
		return t, fault.New(fault.InvalidExpiry, "iothub-expiry lies in the past")
	}
	return t.UTC(), nil
}

// properties gives the application properties by name.
func properties(h http.Header) ([]message.Property, error) {
	var all []message.Property
	for name, values := range h {
		if app, ok := strings.CutPrefix(strings.ToLower(name), headerApp); ok && app != "" {
			all = append(all, message.Property{Name: app, Value: values[0]})
		}
	}
	for pair := range strings.SplitSeq(h.Get(headerProperties), "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, nerr := url.PathUnescape(rawName)
		v, verr := url.PathUnescape(rawValue)
		if nerr != nil || verr != nil || name == "" {
			return nil, fault.New(fault.ArgumentInvalid, "%s is not a list of name=value, percent-encoded and joined by &", headerProperties)
		}
		all = append(all, message.Property{Name: name, Value: v})
	}
	slices.SortStableFunc(all, func(p, q message.Property) int { return strings.Compare(p.Name, q.Name) })
	return all, nil
}

// followEvents streams events as lines of JSON until the client goes away.
func (a *api) followEvents(c *call) error {
	q := EventQuery{Device: c.query.Get("device"), Module: c.query.Get("module"), Group: c.query.Get("group")}
	if q.Module != "" && q.Device == "" {
		return fault.New(fault.ArgumentInvalid, "module needs device")
	}
	if s := c.query.Get("count"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fault.New(fault.ArgumentInvalid, "count %q is not a number above zero", s)
		}
		q.Count = n
	}
	var err error
	if q.Since, err = a.since(c.query.Get("since")); err != nil {
		return err
	}
	lines, err := a.Events.Follow(c.r.Context(), q)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.WriteHeader(http.StatusOK)
	if err := stream(c.w, lines); err != nil && c.r.Context().Err() == nil {
		a.Log.WarnContext(c.r.Context(), "event stream broke off", "by", c.by, "remote", c.r.RemoteAddr, "err", err)
	}
	return nil
}

// stream writes and flushes step by step. It outlives the server's time limits for
// calls and has its own for a reader that stalls.
func stream(w http.ResponseWriter, lines iter.Seq2[[]byte, error]) error {
	flow := http.NewResponseController(w)
	// Writers that know no deadlines go without.
	_ = flow.SetReadDeadline(time.Time{})
	_ = flow.SetWriteDeadline(time.Time{})
	if err := flow.Flush(); err != nil {
		return err
	}
	for text, err := range lines {
		if err != nil {
			return err
		}
		_ = flow.SetWriteDeadline(time.Now().Add(stalledReader))
		if _, err := w.Write(text); err != nil {
			return err
		}
		if err := flow.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// stalledReader is how long one write to a follower of events may take.
const stalledReader = 30 * time.Second

// since reads a duration back from now or a time.
func (a *api) since(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return a.Now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{}, fault.New(fault.ArgumentInvalid, "since %q is neither a duration such as 10m nor a time such as 2026-01-31T08:00:00Z", s)
}
