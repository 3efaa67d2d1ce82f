package service

import (
	"slices"
	"testing"
)

func TestPlaces(t *testing.T) {
	s := New(Config{Hosts: []string{"h"}, Entity: "selvedge"})
	for address, want := range map[string]kind{
		"messages/devicebound":                          toDevices,
		"Messages/deviceBound":                          toDevices,
		"messages/serviceBound/feedback":                feedback,
		"messages/servicebound/Feedback":                feedback,
		"messages/serviceBound/filenotifications":       notifications,
		"messages/events":                               redirected,
		"Messages/Events/$management":                   redirected,
		"messages/events/ConsumerGroups/g/Partitions/0": redirected,
		"messages%2Fevents":                             redirected,
		"$management":                                   management,
		"selvedge/$management":                          management,
		"Selvedge/%24Management":                        management,
		"selvedge/ConsumerGroups/$Default/Partitions/0": partition,
		"SELVEDGE/consumergroups/$default/partitions/9": partition,
		"":                       nowhere,
		"messages":               nowhere,
		"messages/eventsandmore": nowhere,
		"messages/devicebound/x": nowhere,
		"selvedge":               nowhere,
		"other/ConsumerGroups/$Default/Partitions/0":      nowhere,
		"selvedge/ConsumerGroups/$Default/Partitions":     nowhere,
		"selvedge/ConsumerGroups/$Default/Partitions/0/x": nowhere,
		"devices/d/messages/devicebound":                  nowhere,
	} {
		if p := s.place(address); p.kind != want || (want == nowhere) != (p.resources == nil) {
			t.Errorf("%s: %+v, want kind %d", address, p, want)
		}
	}
	p := s.place("selvedge/ConsumerGroups/My%20Group/Partitions/3")
	if p.group != "My Group" || p.partition != "3" ||
		!slices.Equal(p.resources, []string{"selvedge/ConsumerGroups/My Group/Partitions/3", "messages/events/ConsumerGroups/My Group/Partitions/3"}) {
		t.Errorf("%+v", p)
	}
	if p := s.place("messages/events"); !slices.Equal(p.resources, []string{"selvedge", "messages/events"}) {
		t.Errorf("%+v", p)
	}
}

func TestRedirection(t *testing.T) {
	s := New(Config{Hosts: []string{"hub.example.test", "localhost"}, Entity: "selvedge"})
	for _, c := range []struct{ host, address, wantHost, want string }{
		{"hub.example.test", "messages/events/$management", "hub.example.test", "amqps://hub.example.test:5671/selvedge/$management"},
		{"LOCALHOST:5671", "/Messages/Events/ConsumerGroups/g/Partitions/0", "LOCALHOST", "amqps://LOCALHOST:5671/selvedge/ConsumerGroups/g/Partitions/0"},
		{"", "amqps://h/messages/events/", "hub.example.test", "amqps://hub.example.test:5671/selvedge/"},
		{"evil.example", "messages/events", "hub.example.test", "amqps://hub.example.test:5671/selvedge"},
		{"localhost", "\u0130/messages%2Fevents", "localhost", "amqps://localhost:5671/selvedge"},
	} {
		e := s.redirection(c.host, c.address)
		if host := e.Info.Get("hostname"); e.Condition != "amqp:link:redirect" || host != c.wantHost || e.Info.Get("address") != c.want {
			t.Errorf("%s %s: %v", c.host, c.address, e.Info)
		}
	}
}
