package mqtthead

import (
	"context"
	"fmt"
	"slices"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// maxSubscriptions bounds what a session keeps. SDKs need about six.
const maxSubscriptions = 64

// maxFilter is the longest filter that is granted, in bytes: all that are kept are
// written at each change. The longest that means something has about 300.
const maxFilter = 1 << 10

// subscribe grants filters, keeps the session and opens the flows once the client
// has its SUBACK: clients are not ready for methods before.
func (s *session) subscribe(f mqtt.Frame) error {
	var p mqtt.Subscribe
	if err := p.Decode(f); err != nil {
		return err
	}
	subs := slices.Clone(s.subs)
	codes := make([]byte, 0, len(p.Filters))
	for _, asked := range p.Filters {
		if len(asked.Filter) > maxFilter {
			return violated("filter of %d bytes, the most is %d", len(asked.Filter), maxFilter)
		}
		if _, ok := classifyFilter(asked.Filter, s.id); !ok {
			return violated("subscription to %.200q is not allowed", asked.Filter)
		}
		sub := head.Subscription{Filter: asked.Filter, QoS: min(asked.QoS, 1)}
		codes = append(codes, sub.QoS)
		i := slices.IndexFunc(subs, func(have head.Subscription) bool { return have.Filter == sub.Filter })
		if i >= 0 {
			subs[i] = sub
		} else if subs = append(subs, sub); len(subs) > maxSubscriptions {
			return violated("more than %d subscriptions", maxSubscriptions)
		}
	}
	if err := s.keep(subs); err != nil {
		return err
	}
	answer := mqtt.Suback{ID: p.ID, Codes: codes}
	return s.w.AppendThen(func(b []byte) []byte { return answer.Append(b, mqtt.V311) }, s.syncFlows)
}

// unsubscribe takes filters back; unknown ones are acknowledged too.
func (s *session) unsubscribe(f mqtt.Frame) error {
	var p mqtt.Unsubscribe
	if err := p.Decode(f); err != nil {
		return err
	}
	subs := slices.DeleteFunc(slices.Clone(s.subs), func(have head.Subscription) bool {
		return slices.Contains(p.Filters, have.Filter)
	})
	if err := s.keep(subs); err != nil {
		return err
	}
	s.syncFlows()
	answer := mqtt.Ack{Type: mqtt.TypeUnsuback, ID: p.ID}
	return s.w.Append(func(b []byte) []byte { return answer.Append(b, mqtt.V311) })
}

// keep makes subs the subscriptions of the session, durably unless it is clean.
func (s *session) keep(subs []head.Subscription) error {
	if slices.Equal(subs, s.subs) {
		return nil
	}
	if s.srv.sessions != nil && !s.clean {
		ctx, cancel := context.WithTimeout(s.ctx, backendTimeout)
		defer cancel()
		if subs == nil {
			subs = []head.Subscription{} // nil would forget the session
		}
		if err := s.srv.sessions.SaveSubscriptions(ctx, s.id, subs); err != nil {
			return fmt.Errorf("keep session: %w", err)
		}
	}
	s.subs = subs
	s.grants.Store(grantsOf(subs, s.id))
	return nil
}

// flowOf is the backend's flow behind each kind of grant.
var flowOf = [head.Flows]grantKind{
	head.ToDevice: grantToDevice, head.Inputs: grantInputs, head.Desired: grantDesired, head.Methods: grantMethods,
}

// syncFlows opens and shuts flows as the grants stand now.
func (s *session) syncFlows() {
	s.flowMu.Lock()
	defer s.flowMu.Unlock()
	g := s.grants.Load()
	for flow, kind := range flowOf {
		want := g.qos[kind] > 0
		if want == s.flowing[flow] {
			continue
		}
		s.flowing[flow] = want
		if head.Flow(flow) == head.Methods {
			s.online.Store(want)
		}
		if want {
			s.att.Open(head.Flow(flow))
		} else {
			s.att.Shut(head.Flow(flow))
		}
	}
}
