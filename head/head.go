// Package head is the contract between the protocol heads and whatever stands
// behind them. The hub is a Backend and so is the edge broker; to a device they
// are the same thing. The heads below this folder translate Azure's topics, links
// and paths to it.
package head

import (
	"context"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// Backend authenticates devices and modules, keeps their messages and twins, and
// reaches back to them. All methods may be called from many goroutines. Errors are
// faults (model/fault); heads map them once to what their clients expect.
type Backend interface {
	// Authenticate judges a claim. It reveals nothing about identities: an
	// unknown device and a wrong key both yield fault.Unauthorized.
	Authenticate(ctx context.Context, c *ident.Claim) (*ident.Principal, error)

	// Publish takes a batch of messages from one sender, in order, and returns
	// without waiting for the disk. It copies what it needs before it returns, so
	// the caller may reuse the batch and its buffers at once; until then it may
	// stamp the messages in place, without touching what they point to. done is
	// called exactly once, from any goroutine, and must not block: nil when all of
	// the batch is durable, a fault when it was refused as a whole. The done calls
	// of one sender come in the order of its Publish calls.
	Publish(from *ident.Principal, batch []message.Message, done func(error))

	// Twin is the device's view of its twin, as JSON:
	// {"desired":{…,"$version":n},"reported":{…,"$version":m}}.
	Twin(ctx context.Context, of ident.ID) ([]byte, error)

	// Report merges a JSON patch into the reported properties and gives the new
	// version. With ifVersion above zero it fails with fault.PreconditionFailed
	// unless that is the version now.
	Report(ctx context.Context, of ident.ID, patch []byte, ifVersion int64) (version int64, err error)

	// Attach makes d the one connection of who, after ending an older one with
	// fault.TakenOver. No flow is open until Open is called.
	Attach(ctx context.Context, who *ident.Principal, d Device) (Attachment, error)
}

// Sessions is a Backend that remembers MQTT sessions across connections and
// restarts: only subscriptions are kept (device-protocol 5.5).
type Sessions interface {
	// Subscriptions gives what SaveSubscriptions kept; found is false when
	// there is no session.
	Subscriptions(ctx context.Context, of ident.ID) (subs []Subscription, found bool, err error)
	// SaveSubscriptions replaces the session durably; nil forgets it.
	SaveSubscriptions(ctx context.Context, of ident.ID, subs []Subscription) error
}

// Subscription is one granted MQTT subscription of a kept session.
type Subscription struct {
	Filter string
	QoS    byte
}

// Flow is one stream from the backend to a device.
type Flow uint8

// The flows. A device opens a flow by subscribing or attaching a link.
const (
	ToDevice Flow = iota // cloud-to-device messages
	Inputs               // messages routed to a module's inputs
	Desired              // changes of desired properties
	Methods              // direct methods
	Flows                // number of flows
)

// Attachment is the backend's end of one connection. Its methods may be called
// from many goroutines.
type Attachment interface {
	// Open starts a flow; opening an open flow does nothing. What waits for the
	// device, such as cloud-to-device messages, starts to come at once.
	Open(f Flow)
	// Shut ends a flow. Unsettled deliveries of it stay so until settled.
	Shut(f Flow)
	// Settle says what became of a delivery. Unknown tokens are ignored.
	Settle(f Flow, token uint64, o Outcome)
	// Detach ends the attachment: unsettled deliveries go back to their queue at
	// once and no further call reaches the Device after Detach has returned.
	// A second Detach does nothing.
	Detach()
}

// Outcome is what a device made of a delivery.
type Outcome uint8

// The outcomes. MQTT knows only Completed, by PUBACK.
const (
	Completed Outcome = iota
	Rejected          // never to be delivered again
	Abandoned         // to be delivered again, counted
)

// Delivery is one message on its way to a device. It is valid during the call of
// Deliver only.
type Delivery struct {
	Token     uint64 // unique within the attachment and flow
	Message   *message.Message
	Duplicate bool // it may have been delivered on this attachment before
}

// Device is the way back to a connected device or module. Deliver, Desired and
// Close never block: the head buffers, and the backend bounds what is under way.
type Device interface {
	// Deliver sends messages of a flow, ToDevice or Inputs, in order. Each is
	// settled later through the attachment; with a QoS 0 subscription the head
	// settles it as completed when it is written. The backend keeps the number
	// and bytes of unsettled deliveries bounded.
	Deliver(f Flow, batch []Delivery)
	// Desired announces a change: patch is the JSON object as applied, with
	// "$version" in it and null for deleted keys.
	Desired(version int64, patch []byte)
	// Invoke calls a direct method and waits for the answer until ctx ends. It
	// fails with fault.DeviceNotOnline when the Methods flow is not open and with
	// fault.ConnectionClosed when the connection ends first.
	Invoke(ctx context.Context, c *method.Call) (method.Reply, error)
	// Close ends the connection; reason is logged and told where the protocol can.
	Close(reason error)
}

// Models is a Backend that keeps the model a device announces after it has attached, as
// a device of AMQP may: Attach takes that of the principal.
type Models interface {
	SetModel(ctx context.Context, of ident.ID, model string) error
}

// Breaker is a Device whose connection can be broken in part, as the SDKs' own test
// suites order it (device-protocol 13).
type Breaker interface {
	// Break lets a fault of that kind happen; it is false when it knows none such. It
	// does not block.
	Break(kind string, reason error) (known bool)
}
