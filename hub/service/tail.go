package service

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/head/amqphead"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Link properties and capabilities of Event Hubs.
const (
	epochProperty   = "com.microsoft:epoch"
	nameProperty    = "com.microsoft:receiver-name"
	wantsMetrics    = amqp.Symbol("com.microsoft:enable-receiver-runtime-metric")
	maxReceiverName = 128
)

// tail is a receiver of one partition's events. It has a goroutine, which sleeps in
// the log until there is an event and in the link until there is credit.
type tail struct {
	slot    slot
	owner   bool  // it has an owner level:
	epoch   int64 // this
	name    string
	metrics bool
	from    *events.Reader
	stream  *events.Stream
	write   eventWriter
	sent    uint32 // events
	tag     [4]byte

	mu     sync.Mutex
	sender *amqp.Sender
	ended  *amqp.Error // why it was displaced
}

// giveEvents attaches a receiver of a partition and serves it until it is gone.
func (s *Service) giveEvents(ctx context.Context, a *attaching) {
	t, err := s.tail(a)
	if err != nil {
		a.refuse(errorOf(err))
		return
	}
	defer t.from.Close()
	if err := s.owners.join(t); err != nil {
		a.turnAway(err)
		return
	}
	defer s.owners.leave(t)
	how := amqp.Accepting{}
	if t.metrics {
		how.OfferedCapabilities = []amqp.Symbol{wantsMetrics}
	}
	sender, ok := a.sender(ctx, how, amqp.SenderFuncs{
		OnDisposed: echo,
		OnDetached: func(*amqp.Sender, error) { a.gone() },
	})
	if !ok {
		return
	}
	t.began(sender)
	err = t.run(ctx, sender)
	if err == nil || ctx.Err() != nil {
		return
	}
	if code := fault.CodeOf(err); code == fault.ServerError {
		s.log.ErrorContext(ctx, "events cannot be handed out", "partition", t.slot.partition, "group", t.slot.group, "remote", a.peer.Remote(), "err", err)
	}
	sender.Detach(errorOf(err))
	<-ctx.Done() // the slot stays taken until the link is gone
}

// tail reads what the attach says.
func (s *Service) tail(a *attaching) (*tail, error) {
	t := &tail{stream: s.cfg.Events}
	var err error
	if t.slot.group, err = s.cfg.Events.Group(a.place.group); err != nil {
		return nil, err
	}
	if t.slot.partition, err = partitionID(a.place.partition); err != nil {
		return nil, err
	}
	var filter amqp.Map
	if a.Source != nil {
		filter = a.Source.Filter
	}
	from, err := start(filter)
	if err != nil {
		return nil, err
	}
	if epoch, ok := a.Properties.Lookup(epochProperty); ok && epoch != nil {
		if t.epoch, t.owner = a.Properties.Integer(epochProperty); !t.owner {
			return nil, fault.New(fault.ArgumentInvalid, "the link property %s is no integer", epochProperty)
		}
	}
	t.name, _ = a.Properties.Text(nameProperty)
	if t.name == "" {
		t.name = a.Name
	}
	t.name = t.name[:min(len(t.name), maxReceiverName)]
	t.metrics = slices.Contains(a.DesiredCapabilities, wantsMetrics)
	t.from, err = s.cfg.Events.Reader(t.slot.partition, from)
	return t, err
}

// partitionID reads the name of a partition, which is its number.
func partitionID(name string) (int, error) {
	n, err := strconv.Atoi(name)
	if err != nil || strconv.Itoa(n) != name {
		return 0, fault.New(fault.GenericNotFound, "there is no partition %.40q; they are named by numbers from 0", name)
	}
	return n, nil
}

// began notes the link, and ends it when t was displaced meanwhile.
func (t *tail) began(sender *amqp.Sender) {
	t.mu.Lock()
	t.sender = sender
	ended := t.ended
	t.mu.Unlock()
	if ended != nil {
		sender.Detach(ended)
	}
}

// displace ends the link.
func (t *tail) displace(why *amqp.Error) {
	t.mu.Lock()
	t.ended = why
	sender := t.sender
	t.mu.Unlock()
	if sender != nil {
		sender.Detach(why)
	}
}

// run hands events out until the link is gone, which is no error.
func (t *tail) run(ctx context.Context, to *amqp.Sender) error {
	for {
		if err := to.Wait(ctx); err != nil { // first, so that no events are held meanwhile
			return gone(err)
		}
		batch, err := t.from.Next(ctx)
		if err != nil {
			return err
		}
		var m *metrics
		if t.metrics {
			info, err := t.stream.Info(t.slot.partition)
			if err != nil {
				return err
			}
			m = &metrics{Info: info, at: time.Now()}
		}
		for i := range batch {
			if err := t.give(ctx, to, &batch[i], m); err != nil {
				return gone(err)
			}
		}
	}
}

func (t *tail) give(ctx context.Context, to *amqp.Sender, e *events.Event, m *metrics) error {
	payload, err := t.write.encode(e, m)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(t.tag[:], t.sent)
	t.sent++
	_, err = to.SendWait(ctx, amqp.Sending{Tag: t.tag[:], Payload: payload, Settled: true})
	if errors.Is(err, amqp.ErrTooLarge) {
		return fault.New(fault.MessageTooLarge, "event %d of partition %d has %d bytes, more than this link takes", e.Sequence, t.slot.partition, len(payload))
	}
	return err
}

// echo settles what the client has settled in second mode. What it makes of an event
// changes nothing.
func echo(s *amqp.Sender, d amqp.Disposition) {
	if !d.Settled {
		s.Settle(d.ID, d.State)
	}
}

// gone is nil for the errors by which a link says that it is over.
func gone(err error) error {
	if errors.Is(err, amqp.ErrDetached) || errors.Is(err, amqp.ErrEnded) || errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}

// errorOf lets AMQP errors stand and maps others.
func errorOf(err error) *amqp.Error {
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		return e
	}
	return amqphead.ErrorOf(err)
}
