package mqtthead

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/head/door"
	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// lingerTime is how long a refused peer may take to read its CONNACK.
const lingerTime = time.Second

// connect does all up to CONNACK: it returns nil when the session is attached and
// accepted, otherwise the reason, the peer having been told what it may know.
func (s *session) connect() error {
	s.nc.SetDeadline(time.Now().Add(s.srv.cfg.ConnectTimeout)) // the read below fails when this does
	if s.cause() != nil {
		return s.cause()
	}
	certificates, err := door.Certificates(s.nc)
	if err != nil {
		return s.connectError("TLS handshake", err)
	}
	f, err := s.r.Next()
	if err != nil {
		return s.connectError("read CONNECT", err)
	}
	if f.Type != mqtt.TypeConnect {
		return violated("the first packet is %v, not CONNECT", f.Type)
	}
	var p mqtt.Connect
	if err := p.Decode(f); err != nil {
		if errors.Is(err, mqtt.ErrVersion) {
			s.refuseConnect(mqtt.RefusedVersion)
		}
		return err
	}
	present, err := s.admit(&p, certificates)
	if err != nil {
		s.refuseConnect(codeOf(err))
		return err
	}
	s.r.SetLimit(maxPacket)
	answer := mqtt.Connack{SessionPresent: present}
	if err := s.w.AppendThen(func(b []byte) []byte { return answer.Append(b, mqtt.V311) }, s.syncFlows); err != nil {
		s.att.Detach()
		return s.readError(err)
	}
	return nil
}

// connectError says why nothing came of the connection.
func (s *session) connectError(doing string, err error) error {
	if cause := s.cause(); cause != nil {
		return cause
	}
	if err == io.EOF {
		return err
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return violated("no CONNECT arrived within %v", s.srv.cfg.ConnectTimeout)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// admit authenticates the client, takes over from an older connection, and brings
// the session back. present says whether there was one.
func (s *session) admit(p *mqtt.Connect, certificates []*x509.Certificate) (present bool, err error) {
	claim, err := parseUserName(p.Username)
	if err != nil {
		return false, err
	}
	s.id = claim.ID
	if p.ClientID != claim.ID.String() {
		return false, fault.New(fault.Unauthorized, "client id %.200q is not the identity of the user name", p.ClientID)
	}
	if p.Will != nil {
		if kind, _ := classify(p.Will.Topic, claim.ID); kind != telemetry {
			return false, fault.New(fault.ArgumentInvalid, "will topic %.200q is not the client's own telemetry topic", p.Will.Topic)
		}
	}
	claim.Token = string(p.Password)
	claim.Certificates = certificates
	claim.Remote = s.nc.RemoteAddr().String()

	ctx, cancel := context.WithTimeout(s.ctx, backendTimeout)
	defer cancel()
	if s.who, err = s.srv.cfg.Backend.Authenticate(ctx, claim); err != nil {
		return false, err
	}
	s.id, s.clean, s.will = s.who.ID, p.CleanSession, p.Will
	s.idle = s.srv.cfg.MaxKeepAlive
	if p.KeepAlive > 0 {
		s.idle = min(s.idle, time.Duration(p.KeepAlive)*3*time.Second/2)
	}
	s.grants.Store(&grants{})
	if s.att, err = s.srv.cfg.Backend.Attach(ctx, s.who, s); err != nil {
		return false, err
	}
	if present, err = s.restore(ctx); err != nil {
		s.att.Detach()
	}
	return present, err
}

// restore loads the kept session, or forgets it for a clean one.
func (s *session) restore(ctx context.Context) (present bool, err error) {
	if s.srv.sessions == nil {
		return false, nil
	}
	subs, found, err := s.srv.sessions.Subscriptions(ctx, s.id)
	if err != nil {
		return false, fmt.Errorf("load session: %w", err)
	}
	if !found {
		return false, nil
	}
	if s.clean {
		if err := s.srv.sessions.SaveSubscriptions(ctx, s.id, nil); err != nil {
			return false, fmt.Errorf("forget session: %w", err)
		}
		return false, nil
	}
	s.subs = subs
	s.grants.Store(grantsOf(subs, s.id))
	return true, nil
}

// codeOf maps an error of CONNECT to a return code: 5 tells the client that its
// credentials are wrong, 3 that it may try again. The C SDK never recovers from 2
// and 4 (device-protocol 5.4).
func codeOf(err error) mqtt.Code {
	switch code := fault.CodeOf(err); {
	case code == fault.QuotaExceeded, code == fault.TakenOver:
		return mqtt.RefusedUnavailable
	case code.Status() == 408, code.Status() == 429, code.Status() >= 500:
		return mqtt.RefusedUnavailable
	}
	return mqtt.RefusedNotAuthorized
}

// refuseConnect sends CONNACK and sees to it that the peer can read it: closing
// with unread input would make the kernel throw it away.
func (s *session) refuseConnect(code mqtt.Code) {
	answer := mqtt.Connack{Code: code}
	if s.w.Append(func(b []byte) []byte { return answer.Append(b, mqtt.V311) }) != nil || s.w.Close() != nil {
		return
	}
	half, ok := s.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	s.nc.SetReadDeadline(time.Now().Add(lingerTime)) // the read below fails when this does
	if s.cause() == nil {
		io.CopyN(io.Discard, s.nc, 1<<20) // whatever ends it, we are done
	}
}

// publishWill sends the will as telemetry of the client.
func (s *session) publishWill() {
	_, rest := classify(s.will.Topic, s.id)
	var b bag.Bag
	b.Parse(rest, bag.FromDevice)
	b.Properties = append(b.Properties, message.Property{Name: "iothub-MessageType", Value: "Will"})
	if s.will.Retain {
		b.Properties = append(b.Properties, message.Property{Name: "mqtt-retain", Value: "true"})
	}
	m := message.Message{Body: s.will.Payload, System: b.System, Properties: b.Properties}
	s.srv.cfg.Backend.Publish(s.who, []message.Message{m}, func(err error) {
		if err != nil {
			s.srv.cfg.Log.Warn("will of MQTT client not published", append(s.names(), "err", err)...)
		}
	})
}

// grants is what the subscriptions of a session add up to. It does not change.
type grants struct {
	qos     [grantKinds]byte // granted QoS plus one; zero when not subscribed
	methods []string         // names subscribed to; nil means all
}

func grantsOf(subs []head.Subscription, id ident.ID) *grants {
	g := &grants{}
	all := false
	for _, sub := range subs {
		kind, _ := classifyFilter(sub.Filter, id)
		g.qos[kind] = max(g.qos[kind], sub.QoS+1)
		if kind == grantMethods {
			if name := methodOf(sub.Filter); name != "" {
				g.methods = append(g.methods, name)
			} else {
				all = true
			}
		}
	}
	if all {
		g.methods = nil
	}
	return g
}
