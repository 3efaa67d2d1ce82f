package service

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"
)

// desktop is a pair of links to $management.
type desktop struct {
	t       testing.TB
	ask     *azure.Sender
	answers *azure.Receiver
	replyTo string
}

func openDesktop(t testing.TB, s *azure.Session, address, replyTo string) *desktop {
	t.Helper()
	d := &desktop{t: t, replyTo: replyTo}
	var err error
	if d.ask, err = s.NewSender(deadline(t), address, nil); err != nil {
		t.Fatal(err)
	}
	if d.answers, err = s.NewReceiver(deadline(t), address, &azure.ReceiverOptions{TargetAddress: replyTo, Credit: 10}); err != nil {
		t.Fatal(err)
	}
	return d
}

// read asks; properties come as pairs.
func (d *desktop) read(id any, pairs ...any) (status int32, body map[string]any) {
	d.t.Helper()
	properties := map[string]any{"operation": "READ", "security_token": "SharedAccessSignature x"}
	for i := 0; i < len(pairs); i += 2 {
		properties[pairs[i].(string)] = pairs[i+1]
	}
	if err := d.ask.Send(deadline(d.t), &azure.Message{ApplicationProperties: properties,
		Properties: &azure.MessageProperties{MessageID: id, ReplyTo: &d.replyTo}}, nil); err != nil {
		d.t.Fatal(err)
	}
	m, err := d.answers.Receive(deadline(d.t), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if !reflect.DeepEqual(m.Properties.CorrelationID, id) {
		d.t.Errorf("correlation id %#v, want %#v", m.Properties.CorrelationID, id)
	}
	p := m.ApplicationProperties
	status, _ = p["status-code"].(int32)
	if p["statusCode"] != status || p["status-description"] != p["statusDescription"] || p["statusDescription"] == "" {
		d.t.Errorf("status %v", p)
	}
	body, _ = m.Value.(map[string]any)
	return status, body
}

func TestManagement(t *testing.T) {
	r := newRig(t, nil)
	r.append(r.device(1), "a", "b")
	info, _ := r.stream.Info(1)
	for i, address := range []string{"$management", "selvedge/$management"} {
		d := openDesktop(t, r.session(), address, fmt.Sprint("client-", i))
		for _, name := range []string{"selvedge", "SELVEDGE", "messages/events"} {
			status, hub := d.read(uint64(7), "type", "com.microsoft:eventhub", "name", name)
			created, _ := hub["created_at"].(time.Time)
			if status != 200 || hub["name"] != name || hub["type"] != "com.microsoft:eventhub" || hub["partition_count"] != int32(2) ||
				!reflect.DeepEqual(hub["partition_ids"], []string{"0", "1"}) || hub["georeplication_factor"] != int32(1) ||
				created.UnixMilli() != r.stream.Created().UnixMilli() {
				t.Errorf("%d %v", status, hub)
			}
		}
		status, p := d.read("text", "type", "com.microsoft:partition", "name", "selvedge", "partition", "1")
		at, _ := p["last_enqueued_time_utc"].(time.Time)
		if status != 200 || p["name"] != "selvedge" || p["partition"] != "1" || p["begin_sequence_number"] != int64(0) || p["last_enqueued_sequence_number"] != int64(1) ||
			p["last_enqueued_offset"] != fmt.Sprint(info.LastOffset) || !at.Equal(info.LastTime) || p["is_partition_empty"] != false {
			t.Errorf("%d %v", status, p)
		}
		status, p = d.read(azure.UUID{1}, "type", "com.microsoft:partition", "name", "selvedge", "partition", int32(0))
		if status != 200 || p["begin_sequence_number"] != int64(0) || p["last_enqueued_sequence_number"] != int64(-1) ||
			p["last_enqueued_offset"] != "-1" || p["is_partition_empty"] != true {
			t.Errorf("%d %v", status, p)
		}
		for _, c := range []struct {
			want  int32
			pairs []any
		}{
			{404, []any{"type", "com.microsoft:eventhub", "name", "other"}},
			{404, []any{"type", "com.microsoft:partition", "name", "selvedge", "partition", "2"}},
			{404, []any{"type", "com.microsoft:partition", "name", "selvedge", "partition", "01"}},
			{404, []any{"type", "com.microsoft:partition", "name", "selvedge"}},
			{400, []any{"type", "com.microsoft:other", "name", "selvedge"}},
			{400, []any{"operation", "WRITE", "type", "com.microsoft:eventhub", "name", "selvedge"}},
		} {
			if status, body := d.read("x", c.pairs...); status != c.want || len(body) > 0 {
				t.Errorf("%v: %d %v", c.pairs, status, body)
			}
		}
	}
}

// Several clients may share a connection; each gets its own answers.
func TestAnswersGoWhereTheyBelong(t *testing.T) {
	r := newRig(t, nil)
	s := r.session()
	desks := []*desktop{openDesktop(t, s, "$management", "one"), openDesktop(t, s, "$management", "two")}
	mustReceive(t, s, "selvedge/$management", "", nil) // as the CLI holds one
	for i := range 10 {
		d := desks[i%2]
		if status, _ := d.read(uint64(i), "type", "com.microsoft:eventhub", "name", "selvedge"); status != 200 {
			t.Fatal(status)
		}
	}
}

func TestRequestWithoutAnswerLink(t *testing.T) {
	r := newRig(t, nil)
	ask, err := r.session().NewSender(deadline(t), "$management", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask.Send(deadline(t), &azure.Message{Value: "x"}, nil); condition(err) != "amqp:precondition-failed" {
		t.Error(err)
	}
}

func TestAnswersWaitForCredit(t *testing.T) {
	r := newRig(t, nil)
	s := r.session()
	ask, err := s.NewSender(deadline(t), "$management", nil)
	if err != nil {
		t.Fatal(err)
	}
	answers := mustReceive(t, s, "$management", "", func(o *azure.ReceiverOptions) { o.Credit = -1 })
	send := func(id int) error {
		return ask.Send(deadline(t), &azure.Message{Properties: &azure.MessageProperties{MessageID: uint64(id)}, Value: "x"}, nil)
	}
	for i := range maxAnswers {
		if err := send(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(maxAnswers); condition(err) != "amqp:resource-limit-exceeded" {
		t.Errorf("one too many: %v", err)
	}
	if err := answers.IssueCredit(maxAnswers); err != nil {
		t.Fatal(err)
	}
	for i := range maxAnswers {
		m, err := answers.Receive(deadline(t), nil)
		if err != nil || m.Properties.CorrelationID != uint64(i) {
			t.Fatalf("%d: %v, %v", i, m, err)
		}
	}
}

func TestRedirect(t *testing.T) {
	r := newRig(t, nil)
	s := r.session()
	for address, want := range map[string]string{
		"messages/events/":                                      "amqps://hub.example.test:5671/selvedge/",
		"messages/events/$management":                           "amqps://hub.example.test:5671/selvedge/$management",
		"/messages/events/ConsumerGroups/$default/Partitions/0": "amqps://hub.example.test:5671/selvedge/ConsumerGroups/$default/Partitions/0",
	} {
		for way, attach := range map[string]func() error{
			"receiver": func() error {
				recv, err := receive(t, s, address, "", nil)
				if err == nil {
					_, err = recv.Receive(deadline(t), nil)
				}
				return err
			},
			"sender": func() error {
				snd, err := s.NewSender(deadline(t), address, nil)
				if err == nil {
					err = snd.Send(deadline(t), &azure.Message{Value: "x"}, nil)
				}
				return err
			},
		} {
			err := attach()
			if condition(err) != "amqp:link:redirect" {
				t.Errorf("%s %s: %v", way, address, err)
				continue
			}
			info := redirectInfo(err)
			if info["hostname"] != "hub.example.test" || info["address"] != want {
				t.Errorf("%s %s: %v", way, address, info)
			}
		}
	}
	r.allow(func(string) bool { return false })
	if _, err := receive(t, s, "messages/events/", "", nil); condition(err) != "amqp:unauthorized-access" {
		t.Errorf("without the right: %v", err)
	}
}
