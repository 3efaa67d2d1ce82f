package node

import (
	"context"

	"github.com/selvedge-io/selvedge/edge/broker"
	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
)

// agentTwin is the agent's twin, as the broker keeps it: there with and without a link
// to the hub.
type agentTwin struct {
	broker *broker.Broker
	id     ident.ID // $edgeAgent
}

func (a agentTwin) Twin(ctx context.Context) ([]byte, error) { return a.broker.Twin(ctx, a.id) }

func (a agentTwin) Report(ctx context.Context, patch []byte) error {
	_, err := a.broker.Report(ctx, a.id, patch, 0)
	return err
}

// steered is what the hub may do to the agent; edge/agent is.
type steered interface {
	Changed()
	Invoke(ctx context.Context, c *method.Call) method.Reply
}

// agentDevice is the agent as the broker sees it: a module that is always connected.
type agentDevice struct{ agent steered }

var _ head.Device = agentDevice{}

// Deliver implements head.Device; no route leads to the agent.
func (agentDevice) Deliver(head.Flow, []head.Delivery) {}

// Desired implements head.Device. The agent reads the whole twin itself.
func (d agentDevice) Desired(int64, []byte) { d.agent.Changed() }

// Invoke implements head.Device.
func (d agentDevice) Invoke(ctx context.Context, c *method.Call) (method.Reply, error) {
	return d.agent.Invoke(ctx, c), nil
}

// Close implements head.Device; the broker is stopping, and then so is the agent.
func (agentDevice) Close(error) {}

// attachAgent connects the agent to the broker.
func attachAgent(ctx context.Context, b *broker.Broker, id ident.ID, a steered) (head.Attachment, error) {
	at, err := b.Attach(ctx, &ident.Principal{ID: id}, agentDevice{a})
	if err != nil {
		return nil, err
	}
	at.Open(head.Desired)
	at.Open(head.Methods)
	return at, nil
}

// outsiders keeps the system modules' identities, which live in this process, from
// connecting a second time.
type outsiders struct{ broker.Verifier }

// Device implements broker.Verifier.
func (o outsiders) Device(ctx context.Context, c *ident.Claim) (*ident.Principal, error) {
	if c.ID.Module == ident.EdgeAgent || c.ID.Module == ident.EdgeHub {
		return nil, fault.New(fault.Unauthorized, "not authorized")
	}
	return o.Verifier.Device(ctx, c)
}
