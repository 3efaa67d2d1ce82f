package client

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

const (
	cbsAddress = "$cbs"
	maxTokens  = 4096 // that wait for the server's word
)

// tokens shows the tokens of all identities on a connection, by one pair of links
// (claims-based security, device-protocol 6.4). The links are attached when they are
// first needed, and again when the server has ended them.
type tokens struct {
	m *Mux

	opening sync.Mutex // held while attaching

	mu      sync.Mutex
	send    *amqp.Sender // nil without links
	session *amqp.Session
	last    uint64
	waiting map[string]chan error
}

// put shows the token of an identity, whose resource is HOST/devices/…, and waits for
// the server's word on it.
func (t *tokens) put(ctx context.Context, resource, token string) error {
	send, err := t.links(ctx)
	if err != nil {
		return fmt.Errorf("open links for tokens: %w", err)
	}
	id, answered, err := t.expect()
	if err != nil {
		return err
	}
	defer t.forget(id)
	m := amqp.Message{
		Properties: amqp.Properties{MessageID: id, To: cbsAddress, ReplyTo: "cbs"},
		ApplicationProperties: amqp.Map{
			{Key: "operation", Value: "put-token"},
			{Key: "type", Value: "servicebus.windows.net:sastoken"},
			{Key: "name", Value: resource},
		},
		Value: token, HasValue: true,
	}
	b, err := m.Append(nil)
	if err != nil {
		return fmt.Errorf("encode token: %w", err)
	}
	if _, err := send.SendWait(ctx, amqp.Sending{Payload: b, Ref: id}); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("show token: %w", ctx.Err())
		}
		return fmt.Errorf("show token: %w", t.m.because(err))
	}
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the server's word on the token: %w", ctx.Err())
	}
}

func (t *tokens) expect() (id string, answered chan error, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) >= maxTokens {
		return "", nil, fault.New(fault.Throttled, "%d tokens wait for the server's word already", maxTokens)
	}
	if t.waiting == nil {
		t.waiting = make(map[string]chan error)
	}
	t.last++
	id = strconv.FormatUint(t.last, 10)
	answered = make(chan error, 1)
	t.waiting[id] = answered
	return id, answered, nil
}

func (t *tokens) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, id)
}

func (t *tokens) answer(id string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if answered, ok := t.waiting[id]; ok {
		delete(t.waiting, id)
		answered <- err
	}
}

// links gives the sender of the pair, attaching it first if need be.
func (t *tokens) links(ctx context.Context) (*amqp.Sender, error) {
	t.opening.Lock()
	defer t.opening.Unlock()
	t.mu.Lock()
	send := t.send
	t.mu.Unlock()
	if send != nil {
		return send, nil
	}
	s, err := t.m.conn.Begin(ctx)
	if err != nil {
		return nil, t.m.refusal(ctx, err)
	}
	t.mu.Lock()
	t.session = s
	t.mu.Unlock()
	_, err = s.Receiver(ctx, amqp.Attaching{
		Name: "cbs-receiver", Source: &amqp.Source{Address: cbsAddress}, Target: &amqp.Target{Address: "cbs"},
	}, amqp.Receiving{Window: 128}, amqp.ReceiverFuncs{
		OnDelivered: t.delivered,
		OnDetached:  func(_ *amqp.Receiver, reason error) { t.lost(s, reason) },
	})
	if err == nil {
		send, err = s.Sender(ctx, amqp.Attaching{
			Name: "cbs-sender", Source: &amqp.Source{Address: "cbs"}, Target: &amqp.Target{Address: cbsAddress},
		}, amqp.SenderFuncs{
			OnDisposed: t.disposed,
			OnDetached: func(_ *amqp.Sender, reason error) { t.lost(s, reason) },
		})
	}
	if err != nil {
		s.End(nil)
		return nil, t.m.refusal(ctx, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session == s { // not lost meanwhile
		t.send = send
	}
	return send, nil
}

// lost forgets the links and fails who waits on them; the next token attaches others.
func (t *tokens) lost(s *amqp.Session, reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session != s {
		return
	}
	t.session, t.send = nil, nil
	s.End(nil)
	for id, answered := range t.waiting {
		delete(t.waiting, id)
		answered <- t.m.reason(reason)
	}
}

// disposed sees tokens that get no answer because the transfer itself was refused.
func (t *tokens) disposed(s *amqp.Sender, d amqp.Disposition) {
	if !d.Settled {
		s.Settle(d.ID, d.State)
	}
	if d.State.Outcome == amqp.Rejected {
		t.answer(d.Ref.(string), faultOf(d.State.Error))
	}
}

// delivered takes the server's word on a token.
func (t *tokens) delivered(r *amqp.Receiver, d amqp.Delivery) {
	accept(r, d)
	var m amqp.Message
	if err := m.Decode(d.Payload); err != nil {
		t.m.cfg.Log.Warn("answer to a token cannot be read", "server", t.m.cfg.gateway(), "err", err)
		return
	}
	id, ok := m.Properties.CorrelationID.(string)
	if !ok {
		return
	}
	status, _ := m.ApplicationProperties.Integer("status-code")
	if status == 200 || status == 202 {
		t.answer(id, nil)
		return
	}
	text, _ := m.ApplicationProperties.Text("status-description")
	code := codeOf(int(status))
	if status == 403 {
		code = fault.MaxCbsTokens // a token that is no good is 401
	}
	code, text = problemOf(text, code)
	if text == "" {
		text = fmt.Sprintf("the server answered with status %d", status)
	}
	t.answer(id, fault.New(code, "%s refuses the token: %.500s", t.m.cfg.gateway(), text))
}

// accept settles what came unsettled although it needs no settling.
func accept(r *amqp.Receiver, d amqp.Delivery) {
	if !d.Settled {
		// Should it fail, the link is over, and the owner is told so.
		_ = r.Settle(d.ID, amqp.State{Outcome: amqp.Accepted})
	}
}
