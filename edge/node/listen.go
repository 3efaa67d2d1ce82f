package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/selvedge-io/selvedge/head/wshead"
)

// listen opens an address of the configuration; key is its name there.
func listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: %w: ports below 1024 need root or  setcap cap_net_bind_service=+ep PROGRAM; "+
			"or choose another port, or turn the listener off with %s = \"\"", key, err, last(key))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}

// serveHTTP serves h on l until ctx ends; what is under way then is broken off.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// serveWebSockets serves heads over WebSocket until ctx ends.
func serveWebSockets(ctx context.Context, l net.Listener, heads map[string]wshead.Server, log *slog.Logger) error {
	ws := wshead.New(heads, log)
	defer ws.Close()
	return serveHTTP(ctx, l, devices(ws), log)
}

// devices is what the HTTPS listener answers: WebSockets, and nothing else yet.
func devices(ws *wshead.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wshead.IsUpgrade(r) {
			ws.ServeHTTP(w, r)
			return
		}
		text, _ := json.Marshal(map[string]string{"Message": "this gateway serves MQTT and AMQP over WebSocket here; it has nothing at " + r.URL.Path})
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write(text) // whoever asked has gone
	})
}

// near is how a process on this machine reaches a listener.
func near(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}
