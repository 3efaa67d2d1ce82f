package service

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	requestWindow = 50
	maxRequest    = 64 << 10 // bytes; they carry a token
	// maxAnswers is how many answers may wait for credit on one link.
	maxAnswers = 64
)

// office answers questions about the event stream: requests come on one link to
// $management and are answered on another of the same connection, the session's own if
// it has one (service-protocol 10.2).
type office struct {
	mu      sync.Mutex
	windows map[*amqp.Conn][]*window
}

// window is a link on which answers are given.
type window struct {
	address string // what the client calls it, its reply-to
	sender  *amqp.Sender

	mu      sync.Mutex
	waiting []*amqp.Message
}

// takeRequests attaches a link for requests.
func (s *Service) takeRequests(ctx context.Context, a *attaching) {
	a.receiver(ctx, amqp.Receiving{Window: requestWindow, MaxMessageSize: maxRequest}, amqp.ReceiverFuncs{
		OnDelivered: s.request,
		OnDetached:  func(*amqp.Receiver, error) { a.gone() },
	})
}

// giveAnswers attaches a link for answers.
func (s *Service) giveAnswers(ctx context.Context, a *attaching) {
	w := &window{}
	if a.Target != nil {
		w.address = a.Target.Address
	}
	conn := a.Conn()
	s.office.mu.Lock() // until the link is there, so that it is not gone before
	defer s.office.mu.Unlock()
	sender, ok := a.sender(ctx, amqp.Accepting{}, amqp.SenderFuncs{
		OnReady: func(*amqp.Sender) { w.flush() },
		OnDetached: func(*amqp.Sender, error) {
			a.gone()
			s.office.close(conn, w)
		},
	})
	if !ok {
		return
	}
	w.mu.Lock()
	w.sender = sender
	w.mu.Unlock()
	if s.office.windows == nil {
		s.office.windows = map[*amqp.Conn][]*window{}
	}
	s.office.windows[conn] = append(s.office.windows[conn], w)
}

func (o *office) close(conn *amqp.Conn, w *window) {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := slices.DeleteFunc(o.windows[conn], func(other *window) bool { return other == w })
	if len(left) == 0 {
		delete(o.windows, conn)
	} else {
		o.windows[conn] = left
	}
}

// find is where a request that came in a session is to be answered: the link it names,
// else the newest. nil when there is none.
func (o *office) find(in *amqp.Session, conn *amqp.Conn, replyTo string) *window {
	o.mu.Lock()
	defer o.mu.Unlock()
	var best *window
	most := -1
	for _, w := range o.windows[conn] {
		fit := 0
		if w.sender.Session() == in {
			fit++
		}
		if replyTo != "" && (w.address == replyTo || w.sender.Name() == replyTo) {
			fit += 2
		}
		if fit >= most {
			best, most = w, fit
		}
	}
	return best
}

// give sends an answer, or keeps it until there is credit; it fails when too many wait.
func (w *window) give(m *amqp.Message) error {
	w.mu.Lock()
	if len(w.waiting) >= maxAnswers {
		w.mu.Unlock()
		return &amqp.Error{Condition: amqp.ErrResourceLimit, Description: "there is no credit for the answers"}
	}
	w.waiting = append(w.waiting, m)
	w.mu.Unlock()
	w.flush()
	return nil
}

// flush sends what waits as far as there is credit.
func (w *window) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.sender != nil && len(w.waiting) > 0 {
		if _, err := w.sender.SendMessage(w.waiting[0], amqp.Sending{Settled: true}); err != nil {
			return // it is not ready, or gone
		}
		w.waiting = w.waiting[1:]
	}
}

// request answers a request.
func (s *Service) request(r *amqp.Receiver, d amqp.Delivery) {
	err := s.answer(r, d.Payload)
	if d.Settled {
		return
	}
	state := amqp.State{Outcome: amqp.Accepted}
	if err != nil {
		state = amqp.State{Outcome: amqp.Rejected, Error: errorOf(err)}
	}
	_ = r.Settle(d.ID, state) // the link may be over
}

func (s *Service) answer(r *amqp.Receiver, payload []byte) error {
	var m amqp.Message
	if err := m.Decode(payload); err != nil {
		return fault.Wrap(err, fault.ArgumentInvalid, "the request is no AMQP message")
	}
	session := r.Session()
	w := s.office.find(session, session.Conn(), m.Properties.ReplyTo)
	if w == nil {
		return &amqp.Error{Condition: amqp.ErrPrecondition, Description: "attach a receiver from $management for the answer first"}
	}
	status, text := int32(200), "OK"
	body, err := s.read(m.ApplicationProperties)
	if err != nil {
		status, text = int32(fault.CodeOf(err).Status()), fault.TextOf(err)
	}
	id := m.Properties.MessageID
	if binary, ok := id.([]byte); ok {
		id = slices.Clone(binary)
	}
	return w.give(&amqp.Message{
		Properties: amqp.Properties{CorrelationID: id, To: m.Properties.ReplyTo},
		ApplicationProperties: amqp.Map{ // clients look for either spelling
			{Key: "status-code", Value: status}, {Key: "status-description", Value: text},
			{Key: "statusCode", Value: status}, {Key: "statusDescription", Value: text},
		},
		Value: body, HasValue: true,
	})
}

// read answers what the properties of a request ask.
func (s *Service) read(ask amqp.Map) (amqp.Map, error) {
	text := func(name string) string {
		v, _ := ask.Text(name)
		return v
	}
	if op := text("operation"); !strings.EqualFold(op, "READ") {
		return nil, fault.New(fault.InvalidOperation, "the operation is %.40q, there is only READ", op)
	}
	name := text("name")
	if entity := strings.Trim(name, "/"); !strings.EqualFold(entity, s.cfg.Entity) && !strings.EqualFold(entity, alias) {
		return nil, fault.New(fault.GenericNotFound, "there is no event hub %.100q; it is called %s", name, s.cfg.Entity)
	}
	switch kind := text("type"); strings.ToLower(kind) {
	case "com.microsoft:eventhub":
		return s.readHub(name, kind), nil
	case "com.microsoft:partition":
		partition := text("partition")
		if n, ok := ask.Integer("partition"); ok {
			partition = strconv.FormatInt(n, 10)
		}
		return s.readPartition(name, kind, partition)
	default:
		return nil, fault.New(fault.ArgumentInvalid, "there is nothing of type %.100q to read", kind)
	}
}

func (s *Service) readHub(name, kind string) amqp.Map {
	ids := make([]string, s.cfg.Events.Partitions())
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	return amqp.Map{
		{Key: "name", Value: name},
		{Key: "type", Value: kind},
		{Key: "created_at", Value: s.cfg.Events.Created()},
		{Key: "partition_count", Value: int32(len(ids))},
		{Key: "partition_ids", Value: ids},
		{Key: "georeplication_factor", Value: int32(1)},
	}
}

func (s *Service) readPartition(name, kind, partition string) (amqp.Map, error) {
	n, err := partitionID(partition)
	if err != nil {
		return nil, err
	}
	info, err := s.cfg.Events.Info(n)
	if err != nil {
		return nil, fmt.Errorf("read partition: %w", err)
	}
	return amqp.Map{
		{Key: "name", Value: name},
		{Key: "type", Value: kind},
		{Key: "partition", Value: partition},
		{Key: "begin_sequence_number", Value: info.Begin},
		{Key: "last_enqueued_sequence_number", Value: info.Last},
		{Key: "last_enqueued_offset", Value: strconv.FormatInt(info.LastOffset, 10)},
		{Key: "last_enqueued_time_utc", Value: info.LastTime},
		{Key: "is_partition_empty", Value: info.Empty},
	}, nil
}
