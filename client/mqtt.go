package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

const (
	maxBuffered  = 8 << 20 // output that may wait before reading pauses, in bytes
	maxSubscribe = 256     // subscriptions that wait for their SUBACK
	// maxPacket is the largest packet taken from a server: a message with the
	// longest topic.
	maxPacket = message.MaxTelemetry + mqtt.MaxString + 16
)

// mqttConn carries a Client over MQTT.
type mqttConn struct {
	c     *Client
	nc    net.Conn
	r     *mqtt.Reader
	w     *mqtt.Writer
	armed time.Time // read deadline in force; owned by the reader
	bag   bag.Bag   // of the message being read; owned by the reader
	out   outbox

	subMu sync.Mutex
	subID uint16
	subs  map[uint16]chan byte // SUBSCRIBEs that wait, by packet id
}

var _ protocol = (*mqttConn)(nil)

func newMQTT(c *Client, nc net.Conn) *mqttConn {
	m := &mqttConn{c: c, nc: nc, r: mqtt.NewReader(nc, maxPacket), w: mqtt.NewWriter(nc, 0)}
	m.out.init(m)
	c.via = m
	return m
}

// stop implements protocol: the reader wakes up and cleans up.
func (m *mqttConn) stop(reason error) {
	if deliberate(reason) {
		// Should it fail the server sees the connection close instead.
		_ = m.w.Append(func(b []byte) []byte { return mqtt.AppendEmpty(b, mqtt.TypeDisconnect) })
	}
	m.w.Stop()
	m.nc.SetReadDeadline(time.Unix(1, 0)) // a closed connection needs no waking
}

// run is the reader: it serves the connection and cleans up behind it.
func (m *mqttConn) run() {
	m.c.end(m.read())
	if deliberate(m.c.Err()) {
		cut := time.AfterFunc(closeGrace, m.w.Abort)
		m.w.Close() // the error worth telling is Err
		cut.Stop()
	} else {
		m.w.Abort()
	}
	m.nc.Close()
	m.r.Release()
	m.c.over(m.out.stop)
}

// keep sends pings, and ends the connection before its token expires.
func (m *mqttConn) keep(renew <-chan time.Time) {
	ping := time.NewTicker(m.c.cfg.KeepAlive / 2)
	defer ping.Stop()
	for {
		select {
		case <-m.c.done:
			return
		case <-ping.C:
			// The answer moves the read deadline; a failed write ends the reader.
			_ = m.w.Append(func(b []byte) []byte { return mqtt.AppendEmpty(b, mqtt.TypePingreq) })
		case <-renew:
			m.retire()
			return
		}
	}
}

// retire lets what is under way finish, within limits, and ends the connection.
func (m *mqttConn) retire() {
	patience := time.NewTimer(renewGrace)
	defer patience.Stop()
	await := func(finished <-chan struct{}) {
		select {
		case <-finished:
		case <-m.c.done:
		case <-patience.C:
			m.c.end(ErrRenew)
		}
	}
	await(m.c.in.retire()) // the handler may still send what comes of its message
	m.out.refuse(ErrRenew)
	acknowledged := make(chan struct{})
	m.c.joined.Go(func() { m.publish(nil, func(error) { close(acknowledged) }) }) // after all others
	await(acknowledged)
	await(m.c.calls.finished())
	m.c.end(ErrRenew)
}

// read handles packets until the connection ends, and says why it did.
func (m *mqttConn) read() error {
	for {
		if !m.r.Buffered() {
			m.out.settle()
			if err := m.w.Wait(maxBuffered); err != nil {
				return m.readError(err)
			}
			m.arm()
			if err := m.c.Err(); err != nil {
				return err
			}
		}
		f, err := m.r.Next()
		if err != nil {
			return m.readError(err)
		}
		if err := m.handle(f); err != nil {
			return err
		}
	}
}

// arm moves the read deadline: the server owes at least the answer to a ping. Moving
// it costs, so it is set with some slack and then left alone.
func (m *mqttConn) arm() {
	idle := m.c.cfg.KeepAlive * 3 / 2
	if deadline := time.Now().Add(idle); deadline.After(m.armed) {
		m.armed = deadline.Add(idle / 16)
		m.nc.SetReadDeadline(m.armed) // Read fails when this does
	}
}

// readError says what a failed read or wait means.
func (m *mqttConn) readError(err error) error {
	if cause := m.c.Err(); cause != nil {
		return cause
	}
	if werr := m.w.Err(); werr != nil {
		return fmt.Errorf("write to %s: %w", m.c.cfg.gateway(), werr)
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return fault.New(fault.GatewayTimeout, "%s was silent for one and a half times the keep-alive", m.c.cfg.gateway())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Wrap(err, fault.ConnectionClosed, "%s closed the connection", m.c.cfg.gateway())
	}
	return fmt.Errorf("read from %s: %w", m.c.cfg.gateway(), err)
}

func (m *mqttConn) handle(f mqtt.Frame) error {
	switch f.Type {
	case mqtt.TypePuback:
		var p mqtt.Ack
		if err := p.Decode(f); err != nil {
			return err
		}
		m.out.acknowledged(p.ID)
		return nil
	case mqtt.TypePublish:
		return m.published(f)
	case mqtt.TypeSuback:
		return m.subscribed(f)
	case mqtt.TypePingresp:
		return nil
	}
	return fmt.Errorf("%w: a server must not send %v here", mqtt.ErrMalformed, f.Type)
}

// subscribe asks for a filter and waits for the answer.
func (m *mqttConn) subscribe(ctx context.Context, filter string, qos byte) error {
	id, granted, err := m.openSubscribe()
	if err != nil {
		return err
	}
	defer func() {
		m.subMu.Lock()
		delete(m.subs, id)
		m.subMu.Unlock()
	}()
	p := mqtt.Subscribe{ID: id, Filters: []mqtt.Subscription{{Filter: filter, QoS: qos}}}
	if err := m.w.Append(func(b []byte) []byte { return p.Append(b, mqtt.V311) }); err != nil {
		return fmt.Errorf("subscribe to %s: %w", filter, m.c.because(err))
	}
	select {
	case code := <-granted:
		if code == mqtt.SubackFailure {
			return fault.New(fault.UnauthorizedAccess, "%s refuses the subscription to %s", m.c.cfg.gateway(), filter)
		}
		return nil
	case <-m.c.done:
		return fmt.Errorf("subscribe to %s: %w", filter, m.c.Err())
	case <-ctx.Done():
		return fmt.Errorf("subscribe to %s: %w", filter, ctx.Err())
	}
}

// openSubscribe gives a free packet id above those of telemetry.
func (m *mqttConn) openSubscribe() (id uint16, granted chan byte, err error) {
	m.subMu.Lock()
	defer m.subMu.Unlock()
	if len(m.subs) >= maxSubscribe {
		return 0, nil, fault.New(fault.Throttled, "%d subscriptions wait for their answer already", maxSubscribe)
	}
	if m.subs == nil {
		m.subs = make(map[uint16]chan byte)
	}
	for taken := true; taken; _, taken = m.subs[id] {
		m.subID++
		id = m.subID | firstControlID
	}
	granted = make(chan byte, 1)
	m.subs[id] = granted
	return id, granted, nil
}

func (m *mqttConn) subscribed(f mqtt.Frame) error {
	var p mqtt.Suback
	if err := p.Decode(f); err != nil {
		return err
	}
	m.subMu.Lock()
	defer m.subMu.Unlock()
	if granted, ok := m.subs[p.ID]; ok {
		granted <- p.Codes[0]
		delete(m.subs, p.ID)
	}
	return nil
}
