package service

import (
	"strings"

	"github.com/selvedge-io/selvedge/model/percent"
)

// kind is what an address leads to.
type kind uint8

const (
	nowhere       kind = iota
	toDevices          // messages/devicebound
	feedback           // messages/serviceBound/feedback
	notifications      // messages/serviceBound/filenotifications
	redirected         // messages/events and what is below it
	management         // $management, or below the event stream
	partition          // ENTITY/ConsumerGroups/GROUP/Partitions/N
)

// place is an address understood.
type place struct {
	kind             kind
	group, partition string   // of a partition, as they were written
	resources        []string // the names that tokens may have it under
}

// alias is what the event stream is called at the hub's own address.
const alias = "messages/events"

// place understands an address, a path without slashes at its ends. Case matters
// nowhere in it (service-protocol 8 and 10).
func (s *Service) place(address string) place {
	parts := strings.Split(percent.Unescape(address), "/")
	is := func(want ...string) bool { // case folded; "*" is anything
		if len(parts) != len(want) {
			return false
		}
		for i, w := range want {
			if w != "*" && !strings.EqualFold(parts[i], w) {
				return false
			}
		}
		return true
	}
	switch entity := s.cfg.Entity; {
	case is("messages", "devicebound"):
		return place{kind: toDevices, resources: []string{"messages/devicebound"}}
	case is("messages", "servicebound", "feedback"):
		return place{kind: feedback, resources: []string{"messages/servicebound/feedback"}}
	case is("messages", "servicebound", "filenotifications"):
		return place{kind: notifications, resources: []string{"messages/servicebound/filenotifications"}}
	case len(parts) >= 2 && strings.EqualFold(parts[0]+"/"+parts[1], alias):
		return place{kind: redirected, resources: s.names(parts[2:]...)}
	case is("$management"), is(entity, "$management"):
		return place{kind: management, resources: s.names("$management")}
	case is(entity, "consumergroups", "*", "partitions", "*"):
		return place{kind: partition, group: parts[2], partition: parts[4], resources: s.names(parts[1:]...)}
	}
	return place{}
}

// names are those of something below the event stream: clients that found it by
// redirect may hold a token under the hub's name for it (service-protocol 2.2).
func (s *Service) names(below ...string) []string {
	path := strings.Join(below, "/")
	if path != "" {
		path = "/" + path
	}
	return []string{s.cfg.Entity + path, alias + path}
}
