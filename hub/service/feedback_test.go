package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	azure "github.com/Azure/go-amqp"
)

const feedbackAddress = "/messages/serviceBound/feedback"

// ids are the message ids in a batch.
func ids(t testing.TB, m *azure.Message) string {
	t.Helper()
	var records []map[string]string
	if err := json.Unmarshal(m.GetData(), &records); err != nil {
		t.Fatalf("%v in %s", err, m.GetData())
	}
	var out []string
	for _, r := range records {
		out = append(out, r["originalMessageId"])
	}
	return strings.Join(out, " ")
}

func receiveIDs(t testing.TB, r *azure.Receiver, want string) *azure.Message {
	t.Helper()
	m, err := r.Receive(deadline(t), nil)
	if err != nil {
		t.Fatalf("waiting for %s: %v", want, err)
	}
	if got := ids(t, m); got != want {
		t.Fatalf("feedback for %q, want %q", got, want)
	}
	return m
}

func TestFeedbackForm(t *testing.T) {
	r := newRig(t, nil)
	r.box.ended("m1", "m2")
	recv := mustReceive(t, r.session(), "amqps://hub.example.test/messages/servicebound/Feedback", "", nil)
	m := receiveIDs(t, recv, "m1 m2")
	at, _ := m.Annotations["iothub-enqueuedtime"].(time.Time)
	if *m.Properties.ContentType != "application/vnd.microsoft.iothub.feedback.json" || string(m.Properties.UserID) != "hub" ||
		len(m.DeliveryTag) != 16 || time.Since(at).Abs() > time.Minute {
		t.Errorf("%+v, annotations %v, tag %x", m.Properties, m.Annotations, m.DeliveryTag)
	}
	var records []map[string]string
	if err := json.Unmarshal(m.GetData(), &records); err != nil {
		t.Fatal(err)
	}
	ended := records[0]["enqueuedTimeUtc"]
	if _, err := time.Parse("2006-01-02T15:04:05.0000000Z", ended); err != nil {
		t.Error(err)
	}
	if want := map[string]string{"originalMessageId": "m1", "deviceGenerationId": "g1", "deviceId": "pump", "enqueuedTimeUtc": ended,
		"statusCode": "Success", "description": "Success"}; !reflect.DeepEqual(records[0], want) {
		t.Errorf("%v", records[0])
	}
}

func TestFeedbackOutcomes(t *testing.T) {
	for _, mode := range []azure.ReceiverSettleMode{azure.ReceiverSettleModeFirst, azure.ReceiverSettleModeSecond} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			r := newRig(t, nil)
			recv := mustReceive(t, r.session(), feedbackAddress, "", func(o *azure.ReceiverOptions) { o.SettlementMode = &mode })
			r.box.ended("m1")
			m := receiveIDs(t, recv, "m1")
			if err := recv.ReleaseMessage(deadline(t), m); err != nil {
				t.Fatal(err)
			}
			m = receiveIDs(t, recv, "m1")
			if m.Header.DeliveryCount != 1 {
				t.Errorf("delivery count %d", m.Header.DeliveryCount)
			}
			if err := recv.ModifyMessage(deadline(t), m, nil); err != nil {
				t.Fatal(err)
			}
			if err := recv.AcceptMessage(deadline(t), receiveIDs(t, recv, "m1")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "m1 to leave", func() bool { return r.box.left() == "none" })
			r.box.ended("m2")
			if err := recv.RejectMessage(deadline(t), receiveIDs(t, recv, "m2"), nil); err != nil {
				t.Fatal(err)
			}
			eventually(t, "m2 to leave", func() bool { return r.box.left() == "none" })
			r.box.ended("m3")
			m = receiveIDs(t, recv, "m3")
			for range maxFeedbackDeliveries - 1 {
				recv.ReleaseMessage(deadline(t), m)
				m = receiveIDs(t, recv, "m3")
			}
			recv.ReleaseMessage(deadline(t), m)
			eventually(t, "m3 to be given up", func() bool { return r.box.left() == "none" })
		})
	}
}

func TestFeedbackOfALostReceiver(t *testing.T) {
	r := newRig(t, nil)
	r.box.ended("m1")
	s := r.session()
	recv := mustReceive(t, s, feedbackAddress, "", nil)
	receiveIDs(t, recv, "m1")
	s.Close(deadline(t))
	again := mustReceive(t, r.session(), feedbackAddress, "", nil)
	m := receiveIDs(t, again, "m1")
	if m.Header != nil && m.Header.DeliveryCount != 0 {
		t.Errorf("delivery count %d", m.Header.DeliveryCount)
	}
	if r.box.left() != "m1" {
		t.Errorf("left is %s", r.box.left())
	}
}

func TestFeedbackGoesToOneReceiver(t *testing.T) {
	r := newRig(t, nil)
	all := []*azure.Receiver{mustReceive(t, r.session(), feedbackAddress, "", nil), mustReceive(t, r.session(), feedbackAddress, "", nil)}
	got := map[string]int{}
	before := -1
	for i := range 10 {
		id := fmt.Sprint("m", i)
		r.box.ended(id)
		eventually(t, id, func() bool {
			for n, recv := range all {
				if m := recv.Prefetched(); m != nil {
					got[ids(t, m)]++
					recv.AcceptMessage(deadline(t), m)
					if n == before {
						t.Errorf("%s went to receiver %d again", id, n)
					}
					before = n
					return true
				}
			}
			return false
		})
	}
	eventually(t, "all to leave", func() bool { return r.box.left() == "none" })
	if len(got) != 10 {
		t.Errorf("%v", got)
	}
}

func TestFeedbackByCredit(t *testing.T) {
	r := newRig(t, nil)
	mode := azure.ReceiverSettleModeSecond
	recv := mustReceive(t, r.session(), feedbackAddress, "", func(o *azure.ReceiverOptions) { o.Credit, o.SettlementMode = -1, &mode })
	for i := range 3 {
		id := fmt.Sprint("m", i)
		r.box.ended(id)
		if m := recv.Prefetched(); m != nil {
			t.Fatal("it came without credit")
		}
		if err := recv.IssueCredit(1); err != nil {
			t.Fatal(err)
		}
		if err := recv.AcceptMessage(deadline(t), receiveIDs(t, recv, id)); err != nil {
			t.Fatal(err)
		}
		if r.box.left() != "none" {
			t.Error("it was settled before it had left")
		}
	}
}

func TestFeedbackLock(t *testing.T) {
	r := newRig(t, func(cfg *Config) { cfg.Lock = 50 * time.Millisecond })
	mode := azure.ReceiverSettleModeSecond
	recv := mustReceive(t, r.session(), feedbackAddress, "", func(o *azure.ReceiverOptions) { o.SettlementMode = &mode })
	r.box.ended("m1")
	late := receiveIDs(t, recv, "m1")
	m := receiveIDs(t, recv, "m1")
	if err := recv.AcceptMessage(deadline(t), late); err == nil && r.box.left() == "none" {
		t.Error("a lock that is over was good")
	}
	_ = m
	if r.box.left() != "m1" {
		t.Errorf("left is %s", r.box.left())
	}
}

func TestFeedbackSurvivesTroubleOfTheInbox(t *testing.T) {
	r := newRig(t, nil)
	recv := mustReceive(t, r.session(), feedbackAddress, "", nil)
	r.box.ended("m1")
	m := receiveIDs(t, recv, "m1")
	r.box.fail(errors.New("disk on fire"))
	if err := recv.AcceptMessage(deadline(t), m); err != nil {
		t.Fatal(err)
	}
	r.box.ended("m2")
	r.box.fail(nil)
	eventually(t, "m1 to leave", func() bool { return r.box.left() == "m2" })
	receiveIDs(t, recv, "m2")
}

func TestFileNotifications(t *testing.T) {
	r := newRig(t, nil)
	recv := mustReceive(t, r.session(), "/messages/serviceBound/filenotifications", "", nil)
	recv.Close(deadline(t))
	if _, err := r.session().NewSender(deadline(t), "/messages/serviceBound/filenotifications", nil); condition(err) != "amqp:not-allowed" {
		t.Error(err)
	}
	r.allow(func(string) bool { return false })
	for _, address := range []string{"/messages/serviceBound/filenotifications", feedbackAddress} {
		if _, err := receive(t, r.session(), address, "", nil); condition(err) != "amqp:unauthorized-access" {
			t.Errorf("%s: %v", address, err)
		}
	}
}
