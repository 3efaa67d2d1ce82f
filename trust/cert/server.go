package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// How often Run looks at certificate files, and, when a certificate could not be
// renewed, how soon that is tried again.
const (
	lookEvery  = 30 * time.Second
	retryAfter = time.Minute
)

// A certificate from files is somebody else's to renew. From remindBefore its end,
// Run asks for that each remindEvery.
const (
	remindBefore = 14 * 24 * time.Hour
	remindEvery  = 24 * time.Hour
)

// ServerConfig is what a Server stands on: an Authority that issues for Hosts, or
// the files of a certificate that somebody else issued.
type ServerConfig struct {
	Authority *Authority
	Hosts     []string      // host names and IP addresses; the first is the common name
	Lifetime  time.Duration // of issued certificates; zero means Lifetime

	CertificateFile string // PEM, chain included; then Authority is not used
	KeyFile         string // PEM

	Log *slog.Logger     // nil means no log
	Now func() time.Time // nil means time.Now
}

// Server keeps the certificate of a server fresh: an issued one is renewed when a
// third of its life is left, one from files is loaded again when the files change.
type Server struct {
	cfg     ServerConfig
	current atomic.Pointer[held]

	mu       sync.Mutex // renewals, one at a time
	stamp    stamp      // of the files that current came from, or that failed
	retryAt  time.Time
	reminded time.Time
}

// held is a certificate and when to replace it.
type held struct {
	tls   tls.Certificate
	renew time.Time // zero: not by time
}

// NewServer makes a Server with its first certificate.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg}
	fromFiles := cfg.CertificateFile != "" || cfg.KeyFile != ""
	switch {
	case fromFiles && (cfg.CertificateFile == "" || cfg.KeyFile == ""):
		return nil, errors.New("a server's own certificate needs both its file and that of its key")
	case fromFiles:
		s.stamp = s.look()
		return s, s.load()
	case cfg.Authority == nil || len(cfg.Hosts) == 0:
		return nil, errors.New("a server's certificate needs an authority and a host name")
	}
	return s, s.issue()
}

// TLS is the configuration for the server's listeners. Clients are asked for a
// certificate, any or none, which nobody verifies here: auth does, against the
// identity's record (device-protocol 1.2). Every name that a client asks for gets
// the one certificate, and so does a client that names none. The caller may change
// what it gets, such as NextProtos.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.fresh().tls, nil },
	}
}

// Certificate is the server's certificate as it is now.
func (s *Server) Certificate() *x509.Certificate { return s.fresh().tls.Leaf }

// Run keeps the certificate fresh until ctx ends. Without it, an issued certificate
// is renewed by the next handshake.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.fresh()
			s.reload()
		}
	}
}

// fresh gives the certificate after renewing it if that is due. Handshakes do not
// wait for a renewal under way.
func (s *Server) fresh() *held {
	h := s.current.Load()
	now := s.cfg.Now()
	if !h.due(now) || !s.mu.TryLock() {
		return h
	}
	defer s.mu.Unlock()
	if h = s.current.Load(); !h.due(now) || now.Before(s.retryAt) && s.retryAt.Sub(now) <= retryAfter {
		return h
	}
	if err := s.issue(); err != nil {
		s.retryAt = now.Add(retryAfter)
		s.cfg.Log.Error("server certificate not renewed", "expires", h.tls.Leaf.NotAfter, "err", err)
		return h
	}
	return s.current.Load()
}

// due says whether it is time for a new certificate: the life of this one draws to
// its end, or the clock was set back to before its start.
func (h *held) due(now time.Time) bool {
	return !h.renew.IsZero() && (!now.Before(h.renew) || now.Before(h.tls.Leaf.NotBefore))
}

func (s *Server) issue() error {
	leaf, err := s.cfg.Authority.Issue(Request{CommonName: s.cfg.Hosts[0], Hosts: s.cfg.Hosts, Usage: ForServer, Lifetime: s.cfg.Lifetime})
	if err != nil {
		return err
	}
	c := leaf.Certificate
	life := c.NotAfter.Sub(c.NotBefore) - backdate
	s.current.Store(&held{tls: leaf.TLS(), renew: c.NotAfter.Add(-life / 3)})
	s.cfg.Log.Info("server certificate issued", "names", c.DNSNames, "addresses", c.IPAddresses, "expires", c.NotAfter)
	return nil
}

// stamp tells versions of the two files apart.
type stamp [2]struct {
	changed time.Time
	size    int64
}

func (s *Server) look() (now stamp) {
	for n, name := range []string{s.cfg.CertificateFile, s.cfg.KeyFile} {
		if info, err := os.Stat(name); err == nil {
			now[n].changed, now[n].size = info.ModTime(), info.Size()
		}
	}
	return now
}

// reload loads the files again when they have changed. What does not load is told
// once, and the old certificate stays; of two files, one is always the first to be
// replaced.
func (s *Server) reload() {
	if s.cfg.CertificateFile == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remind(s.cfg.Now(), s.current.Load().tls.Leaf.NotAfter)
	now := s.look()
	if now == s.stamp {
		return
	}
	s.stamp = now
	if err := s.load(); err != nil {
		s.cfg.Log.Error("changed server certificate not taken, the old one stays", "err", err)
	}
}

func (s *Server) load() error {
	pair, err := tls.LoadX509KeyPair(s.cfg.CertificateFile, s.cfg.KeyFile)
	if err != nil {
		return fmt.Errorf("load server certificate from %s and %s: %w", s.cfg.CertificateFile, s.cfg.KeyFile, err)
	}
	s.current.Store(&held{tls: pair})
	c := pair.Leaf
	s.cfg.Log.Info("server certificate loaded", "file", s.cfg.CertificateFile, "names", c.DNSNames, "expires", c.NotAfter)
	s.reminded = time.Time{}
	s.remind(s.cfg.Now(), c.NotAfter)
	for _, host := range s.cfg.Hosts {
		if err := c.VerifyHostname(host); err != nil {
			s.cfg.Log.Warn("server certificate does not name a host of ours", "host", host, "file", s.cfg.CertificateFile)
		}
	}
	return nil
}

// remind says in the log that the certificate has to be renewed.
func (s *Server) remind(now, end time.Time) {
	if end.Sub(now) > remindBefore || now.Sub(s.reminded) < remindEvery {
		return
	}
	s.reminded = now
	s.cfg.Log.Warn("server certificate must be renewed soon", "file", s.cfg.CertificateFile, "expires", end)
}
