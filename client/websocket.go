package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

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
	// Its life is that of the connection, not of the dialling.
	return frames{websocket.NetConn(context.Background(), ws, websocket.MessageBinary)}, nil
}

// frames is a WebSocket that sends frames of moderate size.
type frames struct{ net.Conn }

// Write implements net.Conn.
func (f frames) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		m, err := f.Conn.Write(b[:min(len(b), maxFrame)])
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}
