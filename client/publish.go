package client

import (
	"context"
	"fmt"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

// Publish sends telemetry in order, without waiting for acknowledgements; it blocks
// only while Window or WindowBytes are under way, or the server gives no credit. What
// it needs of batch is copied when it returns. done is called once: nil when the server
// has acknowledged all of the batch, otherwise why not; then some of the batch may have
// arrived. The done calls come in the order of the batches, from any goroutine, and
// must not block or close the Client.
//
// A message that cannot be sent at all fails its batch with fault.MessageTooLarge and,
// as MQTT knows no other refusal, ends an MQTT connection when all before it is
// acknowledged. Over AMQP, a batch that the server refuses for what is in it fails
// alone; any other refusal, as for too many messages, ends the connection, so that
// what is sent again comes before what follows.
func (c *Client) Publish(batch []message.Message, done func(error)) { c.via.publish(batch, done) }

// Send is Publish of one message that waits for the acknowledgement. A message that
// cannot be sent fails alone.
func (c *Client) Send(ctx context.Context, m *message.Message) error {
	if err := c.cfg.Protocol.check()(m); err != nil {
		return err
	}
	acked := make(chan error, 1)
	c.Publish([]message.Message{*m}, func(err error) { acked <- err })
	select {
	case err := <-acked:
		return err
	case <-ctx.Done():
		return fmt.Errorf("send message: %w", ctx.Err())
	}
}

// check is what every message is held to before it is sent.
func (p Protocol) check() func(*message.Message) error {
	if p.isAMQP() {
		return checkSize
	}
	return checkMQTT
}

func checkSize(m *message.Message) error {
	if n := m.Size(); n > message.MaxTelemetry {
		return fault.New(fault.MessageTooLarge, "message has %d bytes, the most is %d", n, message.MaxTelemetry)
	}
	return nil
}

func checkAll(batch []message.Message, check func(*message.Message) error) error {
	for i := range batch {
		if err := check(&batch[i]); err != nil {
			return err
		}
	}
	return nil
}
