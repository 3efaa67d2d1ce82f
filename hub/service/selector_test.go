package service

import (
	"math"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

func TestSelectors(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	for text, want := range map[string]events.Position{
		"amqp.annotation.x-opt-offset > '-1'":                         events.Start(),
		"amqp.annotation.x-opt-offset >= '-1'":                        events.Start(),
		"amqp.annotation.x-opt-offset > '@latest'":                    events.End(),
		"amqp.annotation.x-opt-offset >= '@Latest'":                   events.End(),
		"amqp.annotation.x-opt-offset > '4096'":                       events.AtOffset(4096, false),
		"amqp.annotation.x-opt-offset >= '4096'":                      events.AtOffset(4096, true),
		"amqp.annotation.x-opt-offset >= 4096":                        events.AtOffset(4096, true),
		"amqp.annotation.x-opt-sequence-number > '17'":                events.AtSequence(17, false),
		"amqp.annotation.x-opt-sequence-number >= 17":                 events.AtSequence(17, true),
		"amqp.annotation.x-opt-sequence-number > '-1'":                events.Start(),
		"amqp.annotation.x-opt-enqueued-time > '1700000000123'":       events.AtTime(at, false),
		"amqp.annotation.x-opt-enqueued-time >= '1700000000123'":      events.AtTime(at, true),
		"amqp.annotation.x-opt-enqueuedtimeutc > 1700000000123":       events.AtTime(at, false),
		"amqp.annotation.x-opt-enqueuedtimeutc > '1700000000123'":     events.AtTime(at, false),
		" AMQP.Annotation.X-Opt-Sequence-Number>=\"9\" ":              events.AtSequence(9, true),
		"amqp.annotation.x-opt-sequence-number > 9223372036854775807": events.AtSequence(math.MaxInt64, false),
	} {
		if got, err := parseSelector(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ">", "x-opt-offset > '1'", "amqp.annotation.x-opt-offset", "amqp.annotation.x-opt-offset < '1'",
		"amqp.annotation.x-opt-offset > ''", "amqp.annotation.x-opt-offset > '1", "amqp.annotation.x-opt-other > '1'",
		"amqp.annotation.x-opt-sequence-number > '@latest'", "amqp.annotation.x-opt-offset > '1' AND x > '2'",
		"amqp.annotation.x-opt-sequence-number > 9223372036854775808",
	} {
		if got, err := parseSelector(text); !fault.Is(err, fault.ArgumentInvalid) {
			t.Errorf("%q was read as %+v, %v", text, got, err)
		}
	}
}

func TestFilters(t *testing.T) {
	const text = "amqp.annotation.x-opt-sequence-number > '3'"
	want := events.AtSequence(3, false)
	name := amqp.Symbol(selectorName)
	for what, filter := range map[string]amqp.Map{
		"by name":            {{Key: name, Value: amqp.Described{Descriptor: name, Value: text}}},
		"by number":          {{Key: name, Value: amqp.Described{Descriptor: selectorDescriptor, Value: text}}},
		"under another name": {{Key: amqp.Symbol("jms-selector"), Value: amqp.Described{Descriptor: selectorDescriptor, Value: text}}},
		"not described":      {{Key: name, Value: text}},
		"among others":       {{Key: amqp.Symbol("x"), Value: "y"}, {Key: selectorName, Value: text}},
	} {
		if got, err := start(filter); err != nil || got != want {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	for what, filter := range map[string]amqp.Map{"none": nil, "another": {{Key: amqp.Symbol("x"), Value: amqp.Described{Descriptor: uint64(1), Value: "y"}}}} {
		if got, err := start(filter); err != nil || got != events.Start() {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	if _, err := start(amqp.Map{{Key: name, Value: amqp.Described{Descriptor: name, Value: int32(1)}}}); !fault.Is(err, fault.ArgumentInvalid) {
		t.Errorf("a selector that is a number: %v", err)
	}
}

func FuzzSelector(f *testing.F) {
	f.Add("amqp.annotation.x-opt-offset > '@latest'")
	f.Add("amqp.annotation.x-opt-sequence-number >= '5'")
	f.Add("amqp.annotation.x-opt-enqueued-time > '1700000000123'")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseSelector(text)
		if err != nil && (p != events.Position{} || !fault.Is(err, fault.ArgumentInvalid)) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
