package service

import (
	"context"
	"net"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/wire/amqp"
)

// amqpsPort is in every redirect, whatever port a hub listens on: clients look for it
// in the text (service-protocol 10.1).
const amqpsPort = "5671"

// redirect sends a client from the hub's address on to the event stream's: it attaches
// the link and ends it with the new address.
func (s *Service) redirect(ctx context.Context, a *attaching) {
	address := ""
	switch {
	case a.Role == amqp.RoleReceiver && a.Target != nil:
		address = a.Target.Address
	case a.Role == amqp.RoleSender && a.Source != nil:
		address = a.Source.Address
	}
	err := s.redirection(a.Conn().Peer().Hostname, address)
	if a.Role == amqp.RoleSender {
		a.turnAway(err)
		return
	}
	if r, ok := a.receiver(ctx, amqp.Receiving{}, amqp.ReceiverFuncs{OnDetached: func(*amqp.Receiver, error) { a.gone() }}); ok {
		r.Detach(err)
	}
}

// redirection is the error that redirects from an address, whose rest below
// messages/events is kept to the letter, to the host that the client called.
func (s *Service) redirection(host, address string) *amqp.Error {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !slices.ContainsFunc(s.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		host = s.cfg.Hosts[0]
	}
	target := "amqps://" + host + ":" + amqpsPort + "/" + s.cfg.Entity + below(address)
	return &amqp.Error{Condition: amqp.ErrLinkRedirect, Description: "the event stream is at " + target, Info: amqp.Map{
		{Key: amqp.Symbol("hostname"), Value: host},
		{Key: amqp.Symbol("network-host"), Value: host},
		{Key: amqp.Symbol("port"), Value: uint16(5671)},
		{Key: amqp.Symbol("address"), Value: target},
	}}
}

// below is what an address has behind messages/events.
func below(address string) string {
	for i := range len(address) - len(alias) + 1 {
		if strings.EqualFold(address[i:i+len(alias)], alias) {
			return address[i+len(alias):]
		}
	}
	return ""
}
