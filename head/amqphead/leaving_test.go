package amqphead

import (
	"errors"
	"testing"

	azure "github.com/Azure/go-amqp"

	"github.com/selvedge-io/selvedge/head/headtest"
	"github.com/selvedge-io/selvedge/model/fault"
)

// TestLastIdentityRefused: when nobody is left on a connection, its sessions end whole.
// The Node SDK takes 45 s to see that it is disconnected when its links are detached one
// by one before that: it would wait for the token links to be detached, too.
func TestLastIdentityRefused(t *testing.T) {
	r := serve(t, &headtest.Backend{})
	c := r.connect(dev)
	s := c.sender("devices/dev/messages/events", nil)
	in := c.receiver("devices/dev/messages/devicebound", nil)
	r.b.Attached(t, dev).Device.Close(fault.New(fault.Unauthorized, "deleted"))
	r.b.AwaitGone(t, dev)
	_, received := in.Receive(soon(t), nil)
	for _, err := range []error{received, s.Send(soon(t), azure.NewMessage(nil), nil)} {
		var why *azure.Error
		if ended, ok := errors.AsType[*azure.SessionError](err); ok {
			why = ended.RemoteErr
		} else if closed, ok := errors.AsType[*azure.ConnError](err); ok { // it has read on
			why = closed.RemoteErr
		}
		if why == nil || why.Condition != "amqp:unauthorized-access" {
			t.Errorf("the link ended with %v, of type %T", err, err)
		}
	}
}
