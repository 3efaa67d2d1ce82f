package filter

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/modules/moduletest"
)

func reading(temperature string) message.Message {
	return message.Message{
		Body:       []byte(`{"machine":{"temperature":` + temperature + `,"pressure":1},"ambient":{"temperature":90,"humidity":25}}`),
		System:     message.System{ContentType: "application/json", ContentEncoding: "utf-8", MessageID: "m" + temperature, ConnectionModule: "sensor"},
		Properties: []message.Property{{Name: "sequenceNumber", Value: "7"}},
	}
}

func TestFilter(t *testing.T) {
	e := moduletest.Start(t)
	e.Desire(t, e.ID, `{"TemperatureThreshold":30}`)
	stop := e.Run(Run)
	a := e.Connected()
	marked := reading("31.5")
	marked.Properties = append(marked.Properties, message.Property{Name: "MessageType", Value: "Normal"})
	e.Deliver(a, "input1", reading("29"), reading("30"), reading("30.01"), message.Message{Body: []byte("no JSON")},
		message.Message{Body: []byte(`{"ambient":{}}`)})
	e.Deliver(a, "inputFromSensor", marked)
	got := e.Messages(t, 2)
	if n := len(a.Settled(t, 6)); n != 6 || len(got) != 2 {
		t.Fatalf("%d messages acknowledged, want 6; %d passed on, want 2", n, len(got))
	}
	for i, want := range []message.Message{reading("30.01"), reading("31.5")} {
		want.System.ConnectionModule = ""
		want.System.Output = "output1"
		want.Properties = append(want.Properties, message.Property{Name: "MessageType", Value: "Alert"})
		if g := got[i].Message; fmt.Sprint(g) != fmt.Sprint(want) {
			t.Errorf("passed on %+v\nwant      %+v", g, want)
		}
	}

	// A new threshold holds at once; a deleted one means 25.
	for i, patch := range []string{`{"TemperatureThreshold":-3.5}`, `{"TemperatureThreshold":null}`} {
		e.Desire(t, e.ID, patch)
		probe := []string{"-3", "25.5"}[i]
		for len(e.Messages(t, 2)) == 2+i { // until it is in force
			n := len(a.Settled(t, 0))
			e.Deliver(a, "input1", reading(probe))
			a.Settled(t, n+1)
		}
	}
	e.Deliver(a, "input1", reading("20"))
	stop()
	if got := e.Messages(t, 4); len(got) != 4 {
		t.Errorf("%d messages passed on, want 4", len(got))
	}
}

// TestFilterLosesNothing cuts the connection with a message under way.
func TestFilterLosesNothing(t *testing.T) {
	e := moduletest.Start(t)
	e.Hold = true
	e.Run(Run)
	a := e.Connected()
	e.Deliver(a, "input1", reading("50"))
	e.Messages(t, 1)
	a.Device.Close(errors.New("cut by the test"))
	e.Release(1, nil) // too late
	e.AwaitGone(t, e.ID)
	b := e.Connected()
	if n := len(a.Settled(t, 0)); n != 0 {
		t.Fatalf("%d messages acknowledged before the alert was", n)
	}
	e.Deliver(b, "input1", reading("50")) // as a broker does
	e.Messages(t, 2)
	e.Release(1, nil)
	b.Settled(t, 1)
}

func TestThreshold(t *testing.T) {
	for desired, want := range map[string]string{
		`{"$version":1}`:                "25",
		`{"TemperatureThreshold":21}`:   "21",
		`{"TemperatureThreshold":null}`: "25",
		`{"TemperatureThreshold":"21"}`: "error",
		`[]`:                            "error",
	} {
		threshold, err := thresholdOf([]byte(desired))
		got := fmt.Sprint(threshold)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", desired, got, want)
		}
	}
}

func FuzzTemperature(f *testing.F) {
	f.Add([]byte(`{"machine":{"temperature":1e3}}`))
	f.Add([]byte(`{"machine":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := temperatureOf(body)
		if err == nil && (v != v || !strings.Contains(string(body), "{")) {
			t.Errorf("%q is %v", body, v)
		}
	})
}
