package service

import (
	"strconv"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// The selector filter of a source (service-protocol 10.3). Event Hubs' clients give
// it under its name, JMS-like ones under another with the same descriptor.
const (
	selectorName       = "apache.org:selector-filter:string"
	selectorDescriptor = uint64(0x0000468C00000004)

	maxSelector = 256 // bytes; those of clients have less than 100
)

// start says where a receiver wants to begin; without a selector at the oldest event.
func start(filter amqp.Map) (events.Position, error) {
	for _, f := range filter {
		d, described := f.Value.(amqp.Described)
		value := f.Value
		if described {
			value = d.Value
		}
		if f.Key != amqp.Symbol(selectorName) && f.Key != selectorName &&
			d.Descriptor != amqp.Symbol(selectorName) && d.Descriptor != selectorDescriptor {
			continue
		}
		text, ok := value.(string)
		if !ok {
			return events.Position{}, fault.New(fault.ArgumentInvalid, "the selector filter is no string")
		}
		return parseSelector(text)
	}
	return events.Start(), nil
}

// parseSelector reads the comparisons that clients make: an annotation, > or >=, and
// a value with or without quotes.
func parseSelector(text string) (events.Position, error) {
	bad := func(what string) (events.Position, error) {
		return events.Position{}, fault.New(fault.ArgumentInvalid,
			"the selector %.100q %s; it must be like amqp.annotation.x-opt-offset > '-1'", text, what)
	}
	if len(text) > maxSelector {
		return bad("is too long")
	}
	name, value, ok := strings.Cut(text, ">")
	if !ok {
		return bad("compares by something else than > and >=")
	}
	value, inclusive := strings.CutPrefix(value, "=")
	value = unquote(strings.TrimSpace(value))
	name = strings.ToLower(strings.TrimSpace(name))
	name, ok = strings.CutPrefix(name, "amqp.annotation.")
	if !ok {
		return bad("is about no annotation")
	}
	if name == "x-opt-offset" && strings.EqualFold(value, "@latest") {
		return events.End(), nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return bad("has a value that is no number")
	}
	switch name {
	case "x-opt-offset":
		if n < 0 {
			return events.Start(), nil
		}
		return events.AtOffset(n, inclusive), nil
	case "x-opt-sequence-number":
		if n < 0 {
			return events.Start(), nil
		}
		return events.AtSequence(n, inclusive), nil
	case "x-opt-enqueued-time", "x-opt-enqueuedtimeutc", "x-opt-enqueued-time-utc":
		return events.AtTime(time.UnixMilli(n), inclusive), nil
	}
	return bad("is about an annotation by which events are not ordered")
}

func unquote(s string) string {
	if n := len(s); n >= 2 && s[0] == s[n-1] && (s[0] == '\'' || s[0] == '"') {
		return s[1 : n-1]
	}
	return s
}
