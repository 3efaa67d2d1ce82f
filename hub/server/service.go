package server

import (
	"context"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/hub/service"
)

// newService makes what services reach over AMQP.
func (s *Server) newService(r *rooms) *service.Service {
	return service.New(service.Config{
		Registry: r.backend.registry, Inbox: r.inbox, Events: r.events, Hosts: s.cfg.Hostnames, Entity: events.EntityPath, Log: s.log,
	})
}

// services judges tokens of policies for the AMQP head, to which rights are numbers.
type services struct{ *auth.Verifier }

var _ amqphead.Services = services{}

// Service implements amqphead.Services.
func (v services) Service(ctx context.Context, authorization, resource string, need amqphead.Right) (policy string, err error) {
	return v.Verifier.Service(ctx, authorization, resource, auth.Right(need))
}
