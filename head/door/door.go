// Package door is what the heads do alike when somebody knocks: accept connections
// from a listener, see the certificates that a peer brings, and write about those
// turned away without letting them flood the log.
package door

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Serve accepts connections from l until ctx ends or l fails, and runs serve for each
// in its own goroutine. It closes l and returns when the last of them has returned.
// What names the protocol in messages. Shortage of descriptors and the like is waited
// out.
func Serve(ctx context.Context, l net.Listener, what string, log *slog.Logger, serve func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var wait time.Duration
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !isTemporary(err) {
				return fmt.Errorf("accept %s connection: %w", what, err)
			}
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			log.Warn("cannot accept "+what+" connections", "err", err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		wait = 0
		serving.Go(func() { serve(ctx, c) })
	}
}

// certified is a connection that brings the client certificates of its transport.
type certified interface {
	PeerCertificates() []*x509.Certificate
}

// Certificates completes TLS, if there is any, and gives the chain that the peer
// presented, leaf first. A connection that carries one is a *tls.Conn or has a method
// PeerCertificates. Deadlines are the caller's.
func Certificates(nc net.Conn) ([]*x509.Certificate, error) {
	switch c := nc.(type) {
	case *tls.Conn:
		// Not HandshakeContext, which keeps a goroutine for the context: whoever
		// ends the connection moves the deadline.
		if err := c.Handshake(); err != nil {
			return nil, err
		}
		return c.ConnectionState().PeerCertificates, nil
	case certified:
		return c.PeerCertificates(), nil
	}
	return nil, nil
}
