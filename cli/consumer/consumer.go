// Package consumer reads the event stream of a hub as any consumer does: by Event Hubs'
// conventions over AMQP, here in a WebSocket on the hub's HTTPS port (service-protocol
// 9 and 10). It merges the partitions by time.
package consumer

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/trust/sas"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Config says which hub to read from, and by what right.
type Config struct {
	Host   string // the hub's name
	Policy string // a shared access policy that holds ServiceConnect
	Key    []byte
	HTTP   *http.Client // reaches the hub
}

// Query says which events are wanted.
type Query struct {
	Device string    // only this device and its modules; empty: all
	Module string    // only this module of Device
	Since  time.Time // from then on; zero: only what comes
	Group  string    // consumer group; empty: events.DefaultGroup
}

const (
	path     = "/$servicebus/websocket"
	protocol = "AMQPWSB10"

	// tokenLife is how long a token is good for, and renewal when the next is shown.
	tokenLife = time.Hour
	renewal   = 45 * time.Minute
	// renewTimeout bounds the showing of one.
	renewTimeout = time.Minute
	// window is how many events of a partition may be under way or at hand.
	window = 256
)

// Stream is an open event stream. It is for one goroutine at a time.
type Stream struct {
	q    Query
	conn *amqp.Conn
	work sync.WaitGroup
	stop context.CancelFunc

	in    chan item
	feeds []*feed

	mu     sync.Mutex
	reason error         // why the stream ended
	over   chan struct{} // closed then
}

// feed is one partition.
type feed struct {
	receiver *amqp.Receiver
	queue    []item // at hand, in order
	behind   bool   // events up to sequence number
	until    int64  // this are still to come
	used     uint32 // events for which no new credit was given
}

// item is an event as it came.
type item struct {
	from  *feed
	event *events.Event
}

// Open opens the stream; ctx bounds the opening only. Errors of the hub's are faults.
func Open(ctx context.Context, cfg Config, q Query) (*Stream, error) {
	s := &Stream{q: q, over: make(chan struct{})}
	if err := s.open(ctx, cfg); err != nil {
		s.Close()
		return nil, toFault(err)
	}
	return s, nil
}

func (s *Stream) open(ctx context.Context, cfg Config) error {
	ws, _, err := websocket.Dial(ctx, "wss://"+cfg.Host+path, &websocket.DialOptions{HTTPClient: cfg.HTTP, Subprotocols: []string{protocol}})
	if err != nil {
		return err
	}
	life, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.conn, err = amqp.Connect(ctx, websocket.NetConn(life, ws, websocket.MessageBinary), amqp.Config{
		ContainerID: "selvedge-events", Hostname: cfg.Host, Login: &amqp.Login{Mechanism: amqp.Anonymous},
	})
	if err != nil {
		return err
	}
	s.work.Go(func() {
		<-s.conn.Done()
		s.fail(s.conn.Err())
	})
	session, err := s.conn.Begin(ctx)
	if err != nil {
		return err
	}
	if err := s.login(ctx, life, session, cfg); err != nil {
		return err
	}
	return s.attach(ctx, session)
}

// login shows a token, and a new one whenever the last has grown old.
func (s *Stream) login(ctx, life context.Context, session *amqp.Session, cfg Config) error {
	cbs, err := openDesk(ctx, session, "$cbs")
	if err != nil {
		return err
	}
	show := func(ctx context.Context) error {
		audience := "sb://" + cfg.Host + "/" + events.EntityPath
		_, err := cbs.ask(ctx, &amqp.Message{
			ApplicationProperties: amqp.Map{
				{Key: "operation", Value: "put-token"}, {Key: "type", Value: "servicebus.windows.net:sastoken"}, {Key: "name", Value: audience},
			},
			Value: sas.Sign(audience, cfg.Key, time.Now().Add(tokenLife), cfg.Policy), HasValue: true,
		})
		return err
	}
	if err := show(ctx); err != nil {
		return err
	}
	s.work.Go(func() {
		tick := time.NewTicker(renewal)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-life.Done():
				return
			}
			ctx, cancel := context.WithTimeout(life, renewTimeout)
			err := show(ctx)
			cancel()
			if err != nil {
				s.fail(fmt.Errorf("renew the token: %w", err))
				return
			}
		}
	})
	return nil
}

// attach opens a receiver for each partition that may hold what is wanted.
func (s *Stream) attach(ctx context.Context, session *amqp.Session) error {
	management, err := openDesk(ctx, session, "$management")
	if err != nil {
		return err
	}
	read := func(kind string, more ...amqp.Entry) (amqp.Map, error) {
		answer, err := management.ask(ctx, &amqp.Message{ApplicationProperties: append(amqp.Map{
			{Key: "operation", Value: "READ"}, {Key: "type", Value: "com.microsoft:" + kind}, {Key: "name", Value: events.EntityPath},
		}, more...), HasValue: true})
		if err != nil {
			return nil, err
		}
		body, _ := answer.Value.(amqp.Map)
		return body, nil
	}
	hub, err := read("eventhub")
	if err != nil {
		return err
	}
	ids, _ := hub.Get("partition_ids").([]string)
	if s.q.Device != "" && len(ids) > 0 {
		ids = []string{ids[events.PartitionOf(s.q.Device, len(ids))]}
	}
	s.in = make(chan item, len(ids)*window)
	selector := "amqp.annotation.x-opt-offset > '@latest'"
	if !s.q.Since.IsZero() {
		selector = "amqp.annotation.x-opt-enqueued-time >= '" + strconv.FormatInt(ceilMillis(s.q.Since), 10) + "'"
	}
	for _, id := range ids {
		f := &feed{}
		if !s.q.Since.IsZero() {
			p, err := read("partition", amqp.Entry{Key: "partition", Value: id})
			if err != nil {
				return err
			}
			last, _ := p.Get("last_enqueued_time_utc").(time.Time)
			empty, _ := p.Get("is_partition_empty").(bool)
			f.until, f.behind = p.Integer("last_enqueued_sequence_number")
			f.behind = f.behind && !empty && !last.Before(s.q.Since)
		}
		s.feeds = append(s.feeds, f)
		if err := s.receive(ctx, session, f, id, selector); err != nil {
			return err
		}
	}
	return nil
}

// ceilMillis is t in milliseconds, up.
func ceilMillis(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.Nanosecond()%int(time.Millisecond) != 0 {
		ms++
	}
	return ms
}

const selectorFilter amqp.Symbol = "apache.org:selector-filter:string"

func (s *Stream) receive(ctx context.Context, session *amqp.Session, f *feed, id, selector string) (err error) {
	group := s.q.Group
	if group == "" {
		group = events.DefaultGroup
	}
	partition, _ := strconv.Atoi(id) // a name that is no number is not shown as one
	f.receiver, err = session.Receiver(ctx, amqp.Attaching{
		Source: &amqp.Source{
			Address: events.EntityPath + "/ConsumerGroups/" + group + "/Partitions/" + id,
			Filter:  amqp.Map{{Key: selectorFilter, Value: amqp.Described{Descriptor: selectorFilter, Value: selector}}},
		},
		SenderSettleMode: amqp.SendSettled,
		Properties:       amqp.Map{{Key: amqp.Symbol("com.microsoft:receiver-name"), Value: "selvedge events"}},
	}, amqp.Receiving{}, amqp.ReceiverFuncs{
		OnDelivered: func(_ *amqp.Receiver, d amqp.Delivery) {
			e, err := readEvent(d.Payload)
			if err != nil {
				s.fail(fmt.Errorf("read event of partition %s: %w", id, err))
				return
			}
			e.Partition = partition
			select {
			case s.in <- item{f, e}:
			default: // cannot be while the hub honours the credit
				s.fail(fmt.Errorf("the hub sends more of partition %s than it was asked for", id))
			}
		},
		OnDetached: func(_ *amqp.Receiver, reason error) { s.fail(reason) },
	})
	if err == nil {
		err = f.receiver.Grant(window)
	}
	return err
}

// fail notes why the stream has ended.
func (s *Stream) fail(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return
	}
	if reason == nil {
		reason = amqp.ErrClosed
	}
	s.reason = reason
	close(s.over)
}

// Close ends the stream.
func (s *Stream) Close() {
	if s.stop == nil {
		return
	}
	if s.conn != nil {
		s.conn.Close(nil)
		<-s.conn.Done()
	}
	s.stop()
	s.work.Wait()
}
