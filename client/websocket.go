package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

const (
	webSocketPath = "/$iothub/websocket"
	// maxFrame is the largest WebSocket frame sent, in bytes; frames have no meaning,
	// and moderate ones suit all servers (device-protocol 1.4).
	maxFrame = 32 << 10
)

// upgrade makes a WebSocket, through the proxy that the environment names, if any.
func (c *Config) upgrade(ctx context.Context, secure *tls.Config) (net.Conn, error) {
	url, protocol := "wss://", "mqtt"
	if c.Plain {
		url = "ws://"
	}
	if c.Protocol == AMQPWS {
		protocol = "AMQPWSB10"
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, DisableKeepAlives: true}
	ws, _, err := websocket.Dial(ctx, url+c.address()+webSocketPath, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Host: c.gateway(), Subprotocols: []string{protocol},
	})
	if err != nil {
		return nil, network(fmt.Errorf("open a WebSocket to %s at %s: %w", c.gateway(), c.address(), err))
	}
	if ws.Subprotocol() == "" {
		ws.CloseNow()
		return nil, unreachable{fmt.Errorf("open a WebSocket to %s: the server does not speak %s there", c.gateway(), protocol)}
	}
	return newSocket(ws), nil
}

// socket is a WebSocket as a stream of bytes, with frames of moderate size and, other
// than websocket.NetConn, read deadlines that end a Read and not the connection.
type socket struct {
	net.Conn // for writing
	ws       *websocket.Conn
	in       net.Conn      // what was read comes out of it
	read     chan struct{} // closed when nothing more will be
	err      error         // why not; for reading once read is closed
}

func newSocket(ws *websocket.Conn) *socket {
	near, far := net.Pipe()
	// Its life is that of the connection, not of the dialling.
	s := &socket{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws, near, make(chan struct{}), nil}
	go func() {
		defer close(s.read)
		defer far.Close()
		_, s.err = io.Copy(far, s.Conn)
	}()
	return s
}

// Read implements net.Conn.
func (s *socket) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	if err == io.EOF {
		<-s.read
		if s.err != nil {
			err = s.err
		}
	}
	return n, err
}

// Write implements net.Conn.
func (s *socket) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		m, err := s.Conn.Write(b[:min(len(b), maxFrame)])
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// SetReadDeadline implements net.Conn.
func (s *socket) SetReadDeadline(t time.Time) error { return s.in.SetReadDeadline(t) }

// SetDeadline implements net.Conn.
func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.in.SetReadDeadline(t), s.Conn.SetWriteDeadline(t))
}

// Close implements net.Conn. It lets the server say goodbye as well, but not for long.
func (s *socket) Close() error {
	s.in.Close() // so that nothing read holds up the server's goodbye
	cut := time.AfterFunc(closeGrace, func() { s.ws.CloseNow() })
	defer cut.Stop()
	err := s.ws.Close(websocket.StatusNormalClosure, "")
	s.ws.CloseNow()
	<-s.read
	return err
}
