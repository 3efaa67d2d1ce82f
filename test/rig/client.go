package rig

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// Refusal is a CONNACK with another code than 0.
type Refusal byte

// Error says which code.
func (r Refusal) Error() string { return fmt.Sprintf("CONNACK %d", byte(r)) }

// Client is an MQTT connection without any cleverness: it sends what it is told and
// shows what comes. One goroutine may send while another receives.
type Client struct {
	conn    net.Conn
	r       *mqtt.Reader
	id      uint16
	Present bool // the server had kept the session
}

// Dial connects as id and fails with a Refusal when the server does not want it.
func Dial(ctx context.Context, id Identity) (*Client, error) {
	c, err := DialRaw(ctx, id)
	if err != nil {
		return nil, err
	}
	hello := mqtt.Connect{Version: mqtt.V311, ClientID: id.Name(), CleanSession: !id.Keep, KeepAlive: 60,
		Username: id.User(), HasUsername: true, Password: []byte(id.Password)}
	if id.Key != "" && id.Password == "" {
		hello.Password = []byte(id.Token(time.Now().Add(time.Hour)))
	}
	hello.HasPassword = len(hello.Password) > 0
	for topic, payload := range id.Will {
		hello.Will = &mqtt.Will{Topic: topic, Payload: []byte(payload), QoS: 1}
	}
	if err := c.Hello(&hello); err != nil {
		c.Drop()
		return nil, err
	}
	return c, nil
}

// DialRaw opens the network connection and sends nothing.
func DialRaw(ctx context.Context, id Identity) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	if id.From != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(id.From)}
	}
	conn, err := d.DialContext(ctx, "tcp", id.Address)
	if err != nil {
		return nil, err
	}
	if !id.Plain {
		cfg, err := id.tls()
		if err != nil {
			conn.Close()
			return nil, err
		}
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secure
	}
	return &Client{conn: conn, r: mqtt.NewReader(conn, 0)}, nil
}

// Hello sends CONNECT and waits for the answer.
func (c *Client) Hello(p *mqtt.Connect) error {
	if err := c.Write(p.Append(nil)); err != nil {
		return err
	}
	f, err := c.Next(10 * time.Second)
	if err != nil {
		return err
	}
	var ack mqtt.Connack
	if err := ack.Decode(f); err != nil {
		return err
	}
	if ack.Code != mqtt.Accepted {
		return Refusal(ack.Code)
	}
	c.Present = ack.SessionPresent
	return nil
}

// Write sends bytes as they are.
func (c *Client) Write(b []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// Next gives the next packet, valid until the call after.
func (c *Client) Next(limit time.Duration) (mqtt.Frame, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return mqtt.Frame{}, err
	}
	return c.r.Next()
}

// NextID is a packet id for the next packet that needs one.
func (c *Client) NextID() uint16 {
	if c.id++; c.id == 0 {
		c.id = 1
	}
	return c.id
}

// Send publishes at QoS 1 and gives the packet id without waiting for its PUBACK.
func (c *Client) Send(topic string, payload []byte) (uint16, error) {
	p := mqtt.Publish{Topic: topic, QoS: 1, ID: c.NextID(), Payload: payload}
	return p.ID, c.Write(p.Append(nil, mqtt.V311))
}

// Tell publishes at QoS 0.
func (c *Client) Tell(topic string, payload []byte) error {
	p := mqtt.Publish{Topic: topic, Payload: payload}
	return c.Write(p.Append(nil, mqtt.V311))
}

// Subscribe subscribes and waits for the SUBACK; a publish that comes first is lost.
func (c *Client) Subscribe(filter string, qos byte) error {
	p := mqtt.Subscribe{ID: c.NextID(), Filters: []mqtt.Subscription{{Filter: filter, QoS: qos}}}
	if err := c.Write(p.Append(nil, mqtt.V311)); err != nil {
		return err
	}
	for {
		f, err := c.Next(10 * time.Second)
		if err != nil {
			return err
		}
		if f.Type != mqtt.TypeSuback {
			continue
		}
		var ack mqtt.Suback
		if err := ack.Decode(f); err != nil {
			return err
		}
		if ack.Codes[0] == mqtt.SubackFailure {
			return fmt.Errorf("the server refused the subscription %s", filter)
		}
		return nil
	}
}

// Message waits for the next PUBLISH, acknowledges it and gives topic and payload.
func (c *Client) Message(limit time.Duration) (topic, payload string, err error) {
	end := time.Now().Add(limit)
	for {
		f, err := c.Next(time.Until(end))
		if err != nil {
			return "", "", err
		}
		if f.Type != mqtt.TypePublish {
			continue
		}
		var p mqtt.Publish
		if err := p.Decode(f); err != nil {
			return "", "", err
		}
		topic, payload = strings.Clone(p.Topic), string(p.Payload)
		if p.QoS == 0 {
			return topic, payload, nil
		}
		ack := mqtt.Ack{Type: mqtt.TypePuback, ID: p.ID}
		return topic, payload, c.Write(ack.Append(nil, mqtt.V311))
	}
}

// AwaitAck waits for the PUBACK of id.
func (c *Client) AwaitAck(id uint16, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		f, err := c.Next(time.Until(end))
		if err != nil {
			return err
		}
		if f.Type != mqtt.TypePuback {
			continue
		}
		var ack mqtt.Ack
		if err := ack.Decode(f); err != nil {
			return err
		}
		if ack.ID == id {
			return nil
		}
	}
}

// AwaitClose fails the test unless the server ends the connection in time. Packets
// that come before are passed over.
func (c *Client) AwaitClose(t testing.TB, limit time.Duration) {
	t.Helper()
	end := time.Now().Add(limit)
	for {
		_, err := c.Next(time.Until(end))
		if err == nil {
			continue
		}
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Errorf("the server did not end the connection within %v", limit)
		}
		return
	}
}

// Close says goodbye and ends the connection.
func (c *Client) Close() {
	_ = c.Write(mqtt.AppendEmpty(nil, mqtt.TypeDisconnect)) // it may be gone already
	c.Drop()
}

// Drop ends the connection without a word.
func (c *Client) Drop() { c.conn.Close() }
