package mqtthead

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

const (
	// maxFirst is the largest packet accepted before the peer is known.
	maxFirst = 8 << 10
	// maxPacket leaves room for the longest topic, so that telemetry is judged by
	// the size of the message (device-protocol 5.1).
	maxPacket = message.MaxTelemetry + mqtt.MaxString + 16
	// maxBuffered is how much output may wait before reading pauses or, for what
	// the client did not ask for, the connection ends.
	maxBuffered = 8 << 20
	// backendTimeout bounds calls of the backend that a client waits for.
	backendTimeout = 60 * time.Second
)

// Ends of a connection that are no refusals.
var (
	errDisconnect = errors.New("client sent DISCONNECT")
	errKeepAlive  = errors.New("nothing arrived within one and a half times the keep-alive")
	errExpired    = fault.New(fault.Unauthorized, "the token of the connection has expired; connect again with a new one")
	errNoIDs      = errors.New("the client has too many deliveries to acknowledge")
	errSlow       = errors.New("the client does not read what it is sent")
)

// violation is a breach of the protocol: the connection is closed and the log says
// why, since MQTT 3.1.1 has no packet for it.
type violation struct{ text string }

func (v *violation) Error() string { return v.text }

func violated(format string, args ...any) error {
	return &violation{fmt.Sprintf(format, args...)}
}

// session is one connection, from accept to close.
type session struct {
	srv *Server
	nc  net.Conn
	r   *mqtt.Reader
	w   *mqtt.Writer

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	ended  atomic.Pointer[error] // why, once it is over

	// Set by connect, before anything else runs.
	id    ident.ID
	who   *ident.Principal
	att   head.Attachment
	clean bool
	will  *mqtt.Will
	idle  time.Duration // silence that ends the connection
	armed time.Time     // read deadline in force

	// Owned by the reader.
	pending *batch // telemetry being collected
	topic   *cachedTopic
	seen    uint64 // hash of the topic parsed last
	subs    []head.Subscription

	grants  atomic.Pointer[grants]
	flowMu  sync.Mutex
	flowing [head.Flows]bool // guarded by flowMu
	online  atomic.Bool      // the methods flow is open

	acks     acks
	out      outbound
	requests requests
	methods  methods
}

var _ head.Device = (*session)(nil)

func newSession(ctx context.Context, srv *Server, nc net.Conn) *session {
	s := &session{srv: srv, nc: nc, r: mqtt.NewReader(nc, maxFirst), w: mqtt.NewWriter(nc, 0)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.acks.room.L = &s.acks.mu
	return s
}

// run serves the connection; nc is closed by the caller.
func (s *session) run() {
	defer s.cancel()
	defer s.r.Release()
	if err := s.connect(); err != nil {
		s.w.Abort()
		s.logRefusal(err)
		return
	}
	err := s.read()
	s.end(err)
	s.finish()
}

// end makes the connection end, for the reason given first. It never blocks: the
// reader wakes up and cleans up.
func (s *session) end(reason error) {
	if !s.ended.CompareAndSwap(nil, &reason) {
		return
	}
	s.nc.SetReadDeadline(time.Unix(1, 0)) // a closed connection needs no waking
	s.w.Stop()
	s.acks.stop()
	s.cancel()
}

// cause is why the connection ended, nil while it lives.
func (s *session) cause() error {
	if p := s.ended.Load(); p != nil {
		return *p
	}
	return nil
}

// finish cleans up after the reader. Nothing reaches the client any more.
func (s *session) finish() {
	s.cancel()
	s.methods.stop()
	s.requests.working.Wait()
	cause := s.cause()
	if cause == errDisconnect {
		s.w.Close() // it may have sent all at once and still want its answers
	} else {
		s.w.Abort()
	}
	if cause != errDisconnect && s.will != nil {
		s.publishWill()
	}
	s.att.Detach()
	s.logEnd(cause)
}

// read handles packets until the connection ends, and says why it did.
func (s *session) read() error {
	defer s.flush() // telemetry before a DISCONNECT or an error still counts
	for {
		if !s.r.Buffered() {
			s.flush()
			if err := s.w.Wait(maxBuffered); err != nil {
				return s.readError(err)
			}
			if !s.arm() {
				return errExpired
			}
			if err := s.cause(); err != nil {
				return err
			}
		}
		f, err := s.r.Next()
		if err != nil {
			return s.readError(err)
		}
		if err := s.handle(f); err != nil {
			return err
		}
	}
}

// arm sets the read deadline from keep-alive and the end of the token; it is false
// when the token has expired.
func (s *session) arm() bool {
	now := time.Now()
	deadline := now.Add(s.idle)
	if e := s.who.Expires; !e.IsZero() {
		if !now.Before(e) {
			return false
		}
		if e.Before(deadline) {
			deadline = e
		}
	}
	// Moving a deadline costs, so it is set with some slack and then left alone.
	slack := min(time.Second, s.idle/16)
	if deadline.After(s.armed) || s.armed.Sub(deadline) > slack {
		s.armed = deadline.Add(slack)
		s.nc.SetReadDeadline(s.armed) // Read fails when this does
	}
	return true
}

// readError says what a failed read or wait means.
func (s *session) readError(err error) error {
	if cause := s.cause(); cause != nil {
		return cause
	}
	if werr := s.w.Err(); werr != nil {
		return fmt.Errorf("write to client: %w", werr)
	}
	if !s.armed.IsZero() && !time.Now().Before(s.armed) { // transports differ in how they say so
		if e := s.who.Expires; !e.IsZero() && !time.Now().Before(e) {
			return errExpired
		}
		return errKeepAlive
	}
	return err
}

// handle takes one packet. Anything but telemetry first sends off what was
// collected, so that order is kept.
func (s *session) handle(f mqtt.Frame) error {
	switch f.Type {
	case mqtt.TypePublish:
		return s.published(f)
	case mqtt.TypePuback:
		var p mqtt.Ack
		if err := p.Decode(f); err != nil {
			return err
		}
		if d, ok := s.out.settle(p.ID); ok && d.flow != head.Flows {
			s.att.Settle(d.flow, d.token, head.Completed)
		}
		return nil
	case mqtt.TypePingreq:
		return s.w.Append(func(b []byte) []byte { return mqtt.AppendEmpty(b, mqtt.TypePingresp) })
	case mqtt.TypeSubscribe:
		s.flush()
		return s.subscribe(f)
	case mqtt.TypeUnsubscribe:
		s.flush()
		return s.unsubscribe(f)
	case mqtt.TypeDisconnect:
		return errDisconnect
	case mqtt.TypeConnect:
		return violated("a second CONNECT arrived")
	}
	return violated("a client must not send %v here", f.Type)
}

// Close implements head.Device.
func (s *session) Close(reason error) {
	if reason == nil {
		reason = errors.New("the server closed the connection")
	}
	s.end(reason)
}

// names are the log attributes of the peer.
func (s *session) names() []any {
	args := []any{"device", s.id.Device}
	if s.id.Module != "" {
		args = append(args, "module", s.id.Module)
	}
	return args
}

// logRefusal tells why a peer did not get through CONNECT.
func (s *session) logRefusal(err error) {
	if err == io.EOF || err == errShutdown { // a port probe, or us
		s.srv.cfg.Log.Debug("MQTT connection closed before CONNECT", "remote", s.nc.RemoteAddr().String(), "err", err)
		return
	}
	s.srv.refuse(s.nc.RemoteAddr().String(), "MQTT connection refused", append(s.names(), "err", err)...)
}

// logEnd tells why a connection ended: loudly when something was refused or went
// wrong here, quietly for what happens every day.
func (s *session) logEnd(cause error) {
	args := append(s.names(), "err", cause)
	if !ordinary(cause) {
		s.srv.refuse(s.nc.RemoteAddr().String(), "MQTT connection closed", args...)
		return
	}
	s.srv.cfg.Log.Debug("MQTT connection ended", append(args, "remote", s.nc.RemoteAddr().String())...)
}

// ordinary says whether a connection may end so without anyone having to look.
func ordinary(cause error) bool {
	for _, e := range []error{errDisconnect, errKeepAlive, errExpired, errShutdown,
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed} {
		if errors.Is(cause, e) {
			return true
		}
	}
	_, network := errors.AsType[net.Error](cause)
	return network || fault.Is(cause, fault.TakenOver)
}
