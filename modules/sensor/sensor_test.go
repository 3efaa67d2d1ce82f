package sensor

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/modules/moduletest"
)

func parse(t *testing.T, m headtest.Received) (r measurement) {
	t.Helper()
	if err := json.Unmarshal(m.Body, &r); err != nil {
		t.Fatalf("body %q: %v", m.Body, err)
	}
	return r
}

// reports wants the module's next report to be want.
func reports(t *testing.T, e *moduletest.Edge, want string) {
	t.Helper()
	if got := e.Reported(); got != want {
		t.Errorf("reported %s, want %s", got, want)
	}
}

func TestSensor(t *testing.T) {
	e := moduletest.Start(t)
	e.Env["MessageDelay"] = "00:00:00.005"
	e.Env["MessageCount"] = "5"
	stop := e.Run(Run)
	got := e.Messages(t, 5)
	batch, _ := got[0].Get("batchId")
	if err := uuid.Validate(batch); err != nil {
		t.Errorf("batchId %q: %v", batch, err)
	}
	for i, m := range got {
		r := parse(t, m)
		sequence, _ := m.Get("sequenceNumber")
		id, _ := m.Get("batchId")
		if sequence != fmt.Sprint(i+1) || id != batch || id == "" || m.System.Output != "temperatureOutput" ||
			m.System.ContentType != "application/json" || m.System.ContentEncoding != "utf-8" {
			t.Errorf("message %d: %+v", i+1, m.Message)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.0000000Z", r.TimeCreated); err != nil {
			t.Error(err)
		}
	}
	reports(t, e, `{"SendData":true,"SendInterval":0.005}`)
	stop()
	if n := len(e.Messages(t, 5)); n != 5 {
		t.Errorf("%d messages, want 5", n)
	}
}

func TestSensorObeysTwin(t *testing.T) {
	e := moduletest.Start(t)
	e.Env["MessageDelay"] = "00:00:00.002"
	e.Env["MessageCount"] = "-1"
	e.Desire(t, e.ID, `{"SendData":false}`)
	e.Run(Run)
	reports(t, e, `{"SendData":false,"SendInterval":0.002}`)
	e.AwaitOpen(t, e.ID, head.Desired)
	if n := len(e.Messages(t, 0)); n != 0 {
		t.Errorf("%d messages although SendData was false from the start", n)
	}
	e.Desire(t, e.ID, `{"SendData":true,"SendInterval":3600}`)
	reports(t, e, `{"SendData":true,"SendInterval":3600}`)
	if n := len(e.Messages(t, 1)); n != 1 {
		t.Errorf("%d messages in the first hour, want 1", n)
	}
	e.Desire(t, e.ID, `{"SendInterval":0.001}`)
	reports(t, e, `{"SendData":true,"SendInterval":0.001}`)
	sequence, _ := e.Messages(t, 20)[19].Get("sequenceNumber")
	if sequence != "20" {
		t.Errorf("message 20 has number %s", sequence)
	}
	e.Desire(t, e.ID, `{"SendInterval":-1,"SendData":"yes"}`) // neither is taken over
	e.Desire(t, e.ID, `{"SendData":null,"SendInterval":2}`)
	reports(t, e, `{"SendData":true,"SendInterval":2}`)
}

// TestSensorResets warms the machine up and cools it down in every way there is.
func TestSensorResets(t *testing.T) {
	e := moduletest.Start(t)
	e.Env["MessageDelay"] = "00:00:00.001"
	e.Env["MessageCount"] = "-1"
	e.Env["machineTempMin"], e.Env["machineTempMax"] = "10", "1000"
	e.Run(Run)
	e.Connected()
	a := e.AwaitOpen(t, e.ID, head.Methods)
	warm := func() (seen int) {
		t.Helper()
		for {
			all := e.Messages(t, seen+1)
			if seen = len(all); parse(t, all[seen-1]).Machine.Temperature > 20 {
				return seen
			}
		}
	}
	for name, reset := range map[string]func(){
		"method": func() {
			reply, err := a.Device.Invoke(t.Context(), &method.Call{Name: "reset"})
			if err != nil || reply.Status != 200 || len(reply.Payload) > 0 {
				t.Errorf("reset: %+v, %v", reply, err)
			}
		},
		"message": func() {
			e.Deliver(a, "control", message.Message{Body: []byte("no JSON")}, message.Message{Body: []byte(`{"command":"Reset"}`)})
		},
	} {
		seen := warm()
		reset()
		for {
			all := e.Messages(t, seen+1)
			if seen = len(all); parse(t, all[seen-1]).Machine.Temperature < 15 {
				break
			}
			if seen > 100_000 {
				t.Fatalf("%s: the machine does not cool down", name)
			}
		}
	}
	if n := len(a.Settled(t, 2)); n != 2 {
		t.Errorf("%d control messages acknowledged, want 2", n)
	}
	if reply, err := a.Device.Invoke(t.Context(), &method.Call{Name: "explode"}); err != nil || reply.Status != 404 {
		t.Errorf("an unknown method: %+v, %v", reply, err)
	}
}

func TestWantsReset(t *testing.T) {
	for body, want := range map[string]string{
		`{"command":"reset"}`:                 "true",
		`{"Command":"RESET"}`:                 "true",
		`{"command":0}`:                       "true",
		`{"command":1}`:                       "false",
		`{"command":"noop"}`:                  "false",
		`{}`:                                  "false",
		`[]`:                                  "false",
		`[{"command":1},{"command":"reset"}]`: "true",
		`"reset"`:                             "error",
		``:                                    "error",
	} {
		reset, err := wantsReset([]byte(body))
		got := fmt.Sprint(reset)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func TestMachine(t *testing.T) {
	m := newMachine(settings{tempMin: 21, tempMax: 100, pressureMin: 1, pressureMax: 10, ambient: 21})
	before, past := 21.0, 0
	for range 2000 {
		r := m.measure(time.Now())
		step := r.Machine.Temperature - before
		low, high := -0.25, 1.25
		if before > 100 {
			low, high = -0.5, 0.5
			past++
		}
		if step < low || step > high {
			t.Fatalf("from %v to %v", before, r.Machine.Temperature)
		}
		before = r.Machine.Temperature
		if want := 1 + (before-21)*9/79; r.Machine.Pressure-want > 1e-9 || want-r.Machine.Pressure > 1e-9 {
			t.Fatalf("pressure %v at %v, want %v", r.Machine.Pressure, before, want)
		}
		if a := r.Ambient; a.Temperature < 20.5 || a.Temperature > 21.5 || a.Humidity < 24 || a.Humidity > 26 {
			t.Fatalf("ambient %+v", a)
		}
	}
	if past == 0 {
		t.Error("the machine never got hot")
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		name, value string
		want        string
	}{
		{"", "", "5s 500"},
		{"MessageDelay", "00:01:02.5", "1m2.5s 500"},
		{"MessageDelay", "1.02:03", "26h3m0s 500"},
		{"MessageDelay", "5", "error"},
		{"MessageDelay", "00:60:00", "error"},
		{"MessageDelay", "00:00:-1", "error"},
		{"MessageDelay", "00:00:1e1", "error"},
		{"MessageDelay", "00:00:00", "error"},
		{"MessageCount", "-1", "5s -1"},
		{"MessageCount", "-2", "error"},
		{"machineTempMin", "100", "error"},
		{"ambientTemp", "NaN", "error"},
	} {
		s, err := readSettings(func(name string) string {
			if name == test.name {
				return test.value
			}
			return ""
		})
		got := fmt.Sprint(s.delay, s.count)
		if err != nil {
			got = "error"
		}
		if got != test.want {
			t.Errorf("%s=%q: %s, want %s (%v)", test.name, test.value, got, test.want, err)
		}
	}
}

func FuzzTimeSpan(f *testing.F) {
	for _, s := range []string{"00:00:05", "1.00:00", "99999.23:59:59.9999999", "::", "1:2:3:4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := parseTimeSpan(text); err == nil && d <= 0 {
			t.Errorf("%q is %v", text, d)
		}
	})
}
