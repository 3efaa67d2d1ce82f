package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/percent"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// renewRetry is the pause before showing a token again when that went wrong.
const renewRetry = 10 * time.Second

// amqpConn carries a Client over AMQP, in a session of its own on a Mux.
type amqpConn struct {
	c       *Client
	mux     *Mux
	alone   bool // the Mux is for this Client only
	session *amqp.Session
	out     pipeline
	gone    chan struct{} // closed when the telemetry link is, and so the session

	opening sync.Mutex // held while attaching the links below

	twin    atomic.Pointer[amqp.Sender] // nil until needed, as the next two
	methods atomic.Pointer[amqp.Sender]
	inbound atomic.Pointer[amqp.Receiver]

	mu     sync.Mutex
	renew  *time.Timer
	expiry time.Time // of the token in force
}

var _ protocol = (*amqpConn)(nil)

// open shows the token and attaches the telemetry link, which is where servers judge
// that look at tokens no earlier.
func (a *amqpConn) open(ctx context.Context) (err error) {
	if a.c.cfg.Credentials != nil {
		if err := a.authorize(ctx); err != nil {
			return err
		}
	}
	if a.session, err = a.mux.conn.Begin(ctx); err != nil {
		return a.mux.refusal(ctx, err)
	}
	a.c.joined.Add(1) // for finish
	a.out.send, err = a.session.Sender(ctx, a.attaching("events", "/messages/events", "", amqp.RoleSender), amqp.SenderFuncs{
		OnDisposed: a.out.disposed,
		OnDetached: func(_ *amqp.Sender, reason error) {
			close(a.gone)
			a.c.end(a.mux.because(reason))
		},
	})
	if err != nil {
		a.session.End(nil)
		return a.mux.refusal(ctx, err)
	}
	if a.c.cfg.Credentials != nil {
		a.mu.Lock()
		a.renew = time.AfterFunc(a.c.cfg.renewal(), a.renewToken)
		a.mu.Unlock()
	}
	return nil
}

// authorize shows the server a new token.
func (a *amqpConn) authorize(ctx context.Context) error {
	expiry := time.Now().Add(a.c.cfg.TokenLife)
	token, err := a.c.cfg.token(ctx)
	if err != nil {
		return err
	}
	if err := a.mux.tokens.put(ctx, a.c.cfg.Host+a.address(""), token); err != nil {
		return err
	}
	a.mu.Lock()
	a.expiry = expiry
	a.mu.Unlock()
	return nil
}

// renewToken is called by the timer, in a goroutine of its own. When the connection is
// over there is nothing to renew.
func (a *amqpConn) renewToken() {
	_ = a.c.start(func() {
		ctx, cancel := context.WithTimeout(a.c.ctx, dialTimeout)
		defer cancel()
		err := a.authorize(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		switch left := time.Until(a.expiry); {
		case a.c.Err() != nil:
		case err == nil:
			a.renew.Reset(a.c.cfg.renewal())
		case left <= 0 || fault.CodeOf(err).Status() < 500:
			a.c.end(fmt.Errorf("renew the token of %s: %w", a.c.id, err))
		default:
			a.c.cfg.Log.Warn("token is not renewed yet, trying again", "device", a.c.id.Device, "module", a.c.id.Module, "err", err)
			a.renew.Reset(min(renewRetry, max(left, time.Millisecond)))
		}
	})
}

// stop implements protocol.
func (a *amqpConn) stop(error) { go a.finish() }

// finish says goodbye, waits a little for the server to do so as well, and cleans up.
func (a *amqpConn) finish() {
	defer a.c.joined.Done()
	a.mu.Lock()
	if a.renew != nil {
		a.renew.Stop()
	}
	a.mu.Unlock()
	if a.alone {
		a.mux.conn.Close(nil)
		<-a.mux.Done()
	} else {
		a.session.End(nil)
		patience := time.NewTimer(closeGrace)
		select {
		case <-a.gone:
		case <-a.mux.Done():
		case <-patience.C:
		}
		patience.Stop()
	}
	a.mux.remove(a.c)
	a.c.over(a.out.stop)
}

// address is that of a link of the identity: percent-encoded, as ids may hold anything.
func (a *amqpConn) address(rest string) string {
	s := "/devices/" + percent.Escape(a.c.id.Device)
	if a.c.id.IsModule() {
		s += "/modules/" + percent.Escape(a.c.id.Module)
	}
	return s + rest
}

// attaching says how to attach a link (device-protocol 6.6). pair, when not empty, is
// what tells the server which two belong together.
func (a *amqpConn) attaching(name, rest, pair string, role amqp.Role) amqp.Attaching {
	cfg := &a.c.cfg
	at := amqp.Attaching{
		Name: name,
		Properties: amqp.Map{
			{Key: amqp.Symbol("com.microsoft:client-version"), Value: cfg.ProductInfo},
			{Key: amqp.Symbol("com.microsoft:api-version"), Value: apiVersion},
		},
	}
	if pair != "" {
		at.SenderSettleMode = amqp.SendSettled
		at.Properties = append(at.Properties, amqp.Entry{Key: amqp.Symbol("com.microsoft:channel-correlation-id"), Value: pair})
	}
	if role == amqp.RoleReceiver {
		at.Source = &amqp.Source{Address: a.address(rest)}
		return at
	}
	at.Target = &amqp.Target{Address: a.address(rest)}
	if cfg.ModelID != "" {
		at.Properties = append(at.Properties, amqp.Entry{Key: amqp.Symbol("com.microsoft:model-id"), Value: cfg.ModelID})
	}
	return at
}

// receive attaches a link to receive on.
func (a *amqpConn) receive(ctx context.Context, at amqp.Attaching, window uint32, delivered func(*amqp.Receiver, amqp.Delivery)) (*amqp.Receiver, error) {
	r, err := a.session.Receiver(ctx, at, amqp.Receiving{Window: window}, amqp.ReceiverFuncs{
		OnDelivered: delivered,
		OnDetached:  func(_ *amqp.Receiver, reason error) { a.c.end(a.mux.because(reason)) },
	})
	if err != nil {
		return nil, a.attachError(ctx, err)
	}
	return r, nil
}

// pair attaches the two links of twins or methods. The sender comes first, and keep is
// given it before anything can be received.
func (a *amqpConn) pair(ctx context.Context, what, rest string, window uint32, keep func(*amqp.Sender), delivered func(*amqp.Receiver, amqp.Delivery)) error {
	id := what + ":" + rand.Text()
	var whole atomic.Bool
	s, err := a.session.Sender(ctx, a.attaching(what+"-sender", rest, id, amqp.RoleSender), amqp.SenderFuncs{
		OnDisposed: func(s *amqp.Sender, d amqp.Disposition) {
			if !d.Settled {
				s.Settle(d.ID, d.State)
			}
		},
		OnDetached: func(_ *amqp.Sender, reason error) {
			if whole.Load() {
				a.c.end(a.mux.because(reason))
			}
		},
	})
	if err != nil {
		return a.attachError(ctx, err)
	}
	keep(s)
	if _, err := a.receive(ctx, a.attaching(what+"-receiver", rest, id, amqp.RoleReceiver), window, delivered); err != nil {
		s.Detach(nil)
		return err
	}
	whole.Store(true)
	return nil
}

func (a *amqpConn) attachError(ctx context.Context, err error) error {
	if cause := a.c.Err(); cause != nil {
		return cause
	}
	return a.mux.refusal(ctx, err)
}
