package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/selvedge-io/selvedge/head/wshead"
)

// Addresses are where a hub listens, HOST:PORT; what is not served is empty. Those
// that listen everywhere show the loopback address.
type Addresses struct {
	MQTT      string `json:"mqtt,omitempty"`
	AMQP      string `json:"amqp,omitempty"`
	HTTPS     string `json:"https,omitempty"`
	Ops       string `json:"ops,omitempty"`
	PlainMQTT string `json:"plainMqtt,omitempty"`
	PlainAMQP string `json:"plainAmqp,omitempty"`
}

// probeIdle is after how much silence the kernel asks whether a peer is still there.
// MQTT has its own way of asking, and every probe costs a mobile device.
const probeIdle = 4 * time.Minute

// listeners are the open sockets, nil where nothing is served.
type listeners struct {
	mqtt, amqp, https, ops, plainMQTT, plainAMQP net.Listener
}

// listen opens all sockets of cfg, or none.
func listen(ctx context.Context, cfg *Config) (*listeners, error) {
	l := &listeners{}
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeIdle}}
	for _, s := range []struct {
		what, flag, address string
		into                *net.Listener
	}{
		{"MQTT", "--mqtt", cfg.MQTT, &l.mqtt},
		{"AMQP", "--amqp", cfg.AMQP, &l.amqp},
		{"HTTPS", "--https", cfg.HTTPS, &l.https},
		{"operations", "--ops", cfg.Ops, &l.ops},
		{"plain MQTT", "--plain-mqtt", cfg.PlainMQTT, &l.plainMQTT},
		{"plain AMQP", "--plain-amqp", cfg.PlainAMQP, &l.plainAMQP},
	} {
		if s.address == "" {
			continue
		}
		opened, err := lc.Listen(ctx, "tcp", s.address)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listen for %s on %s: %w; choose another address with %s", s.what, s.address, reason(err), s.flag)
		}
		*s.into = opened
	}
	return l, nil
}

// reason shortens what the network says.
func reason(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errors.New("this user may not use that port")
	case errors.Is(err, syscall.EADDRINUSE):
		return errors.New("another program uses that port")
	}
	return err
}

func (l *listeners) close() {
	for _, each := range []net.Listener{l.mqtt, l.amqp, l.https, l.ops, l.plainMQTT, l.plainAMQP} {
		if each != nil {
			each.Close() // serving has closed some already
		}
	}
}

func (l *listeners) addresses() Addresses {
	return Addresses{
		MQTT: reachable(l.mqtt), AMQP: reachable(l.amqp), HTTPS: reachable(l.https), Ops: reachable(l.ops),
		PlainMQTT: reachable(l.plainMQTT), PlainAMQP: reachable(l.plainAMQP),
	}
}

// reachable is where local programs find l.
func reachable(l net.Listener) string {
	if l == nil {
		return ""
	}
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok || !a.IP.IsUnspecified() {
		return l.Addr().String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(a.Port))
}

// Limits of HTTPS peers. A direct method may take ten minutes.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = time.Minute
	answerTimeout = 11 * time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 256 << 10 // properties of cloud-to-device messages come in headers
	stopTimeout   = 2 * time.Second
)

// serveHTTPS serves REST calls and WebSockets until ctx ends.
func serveHTTPS(ctx context.Context, l net.Listener, config *tls.Config, api http.Handler, sockets *wshead.Handler, log *slog.Logger) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // a WebSocket needs it, and no client needs another
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if wshead.IsUpgrade(r) {
				sockets.ServeHTTP(w, r)
				return
			}
			api.ServeHTTP(w, limitBody(w, r, bodyTimeout))
		}),
		TLSConfig:         config,
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // strangers' handshakes, mostly
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		sockets.Close() // Shutdown knows nothing of them
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(patience) != nil {
			srv.Close() // calls that do not end have had their time
		}
	})
	err := srv.ServeTLS(l, "", "")
	if stop() { // it failed by itself
		sockets.Close()
		srv.Close()
		return fmt.Errorf("serve HTTPS: %w", err)
	}
	<-stopped
	return nil
}
