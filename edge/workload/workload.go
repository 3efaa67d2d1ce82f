// Package workload serves the API by which a module learns what it needs to prove
// itself and to trust its broker, on a Unix socket of its own for each module
// (edge-runtime 3.2). Who may open the socket is who the module is; the key never
// leaves us.
package workload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/selvedge-io/selvedge/trust/cert"
)

// Signer signs in the name of a module with its key: HMAC-SHA256 over data.
// identity.Directory is one.
type Signer interface {
	Sign(ctx context.Context, module string, data []byte) ([]byte, error)
}

// Issuer makes certificates; the device's cert.Authority does.
type Issuer interface {
	Issue(r cert.Request) (cert.Leaf, error)
}

// Config of a Server. Only Log may be left out.
type Config struct {
	Dir string // of the sockets; made if need be, for our eyes only

	Hub    string // host name of the hub, for the names in identity certificates
	Device string

	Signer Signer
	Issuer Issuer

	// TrustBundle gives the certificates that modules trust, in PEM. It is asked each
	// time. None is no error.
	TrustBundle func() ([]byte, error)

	// Derive gives n bytes for a purpose, always the same; keys.Keys.Derive does.
	Derive func(purpose string, n int) []byte

	Log *slog.Logger // nil for silence
}

// Server has a socket for each module that was ensured and not dropped.
type Server struct {
	cfg Config
	log *slog.Logger
	dir string // absolute and short enough

	issuing chan struct{} // bounds how many certificates are made at a time

	mu      sync.Mutex
	sockets map[string]*socket // by module; nil after Close
}

const (
	// maxPath is the longest path of a Unix socket that all systems take, in bytes.
	maxPath = 103

	socketName = len("0123456789abcdef.sock")
)

// New makes a server without sockets.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("find folder for workload sockets: %w", err)
	}
	if len(dir)+1+socketName > maxPath {
		sum := sha256.Sum256([]byte(dir))
		short := filepath.Join(os.TempDir(), "selvedge-"+hex.EncodeToString(sum[:8]))
		if len(short)+1+socketName > maxPath {
			return nil, fmt.Errorf("folder %s is too long a path for Unix sockets, and so is %s: choose a shorter data directory", dir, short)
		}
		cfg.Log.Info("path is too long for Unix sockets, which are elsewhere", "dir", dir, "sockets", short)
		dir = short
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for workload sockets: %w", err)
	}
	if err := makePrivate(dir); err != nil {
		return nil, fmt.Errorf("make folder for workload sockets: %w", err)
	}
	if err := sweep(dir); err != nil {
		return nil, fmt.Errorf("clear folder for workload sockets: %w", err)
	}
	return &Server{cfg: cfg, log: cfg.Log, dir: dir, issuing: make(chan struct{}, 1), sockets: map[string]*socket{}}, nil
}

// sweep removes the sockets that a run of ours left when it was killed.
func sweep(dir string) error {
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range left {
		if e.Type() != fs.ModeSocket || len(e.Name()) != socketName || filepath.Ext(e.Name()) != ".sock" {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Ensure listens for a module and gives the URI of its socket, the same one each time.
// generation is that of the module's identity; calls that name another are refused.
func (s *Server) Ensure(_ context.Context, module, generation string) (uri string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets == nil {
		return "", errors.New("workload server is closed")
	}
	if k := s.sockets[module]; k != nil {
		if k.stands() {
			k.setGeneration(generation)
			return k.uri(), nil
		}
		k.close() // somebody removed its file
		delete(s.sockets, module)
	}
	k, err := s.listen(module, generation)
	if err != nil {
		return "", fmt.Errorf("listen for module %s: %w", module, err)
	}
	s.sockets[module] = k
	return k.uri(), nil
}

// Drop ends the socket of a module, and the calls on it.
func (s *Server) Drop(module string) {
	s.mu.Lock()
	k := s.sockets[module]
	delete(s.sockets, module)
	s.mu.Unlock()
	if k != nil {
		k.close()
	}
}

// Close ends all sockets.
func (s *Server) Close() error {
	s.mu.Lock()
	all := s.sockets
	s.sockets = nil
	s.mu.Unlock()
	for _, k := range all {
		k.close()
	}
	return nil
}

// path is where a module's socket is. Names are of one length and safe, whatever the
// module is called; and since clients make a host name of it, it is fit for one.
func (s *Server) path(module string) string {
	sum := sha256.Sum256([]byte(module))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:8])+".sock")
}

func (s *Server) listen(module, generation string) (*socket, error) {
	path := s.path(module)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is in the way: it is no socket; remove it", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if info, err = os.Lstat(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	k := &socket{server: s, module: module, generation: generation, listener: l, path: path, file: info, conns: map[net.Conn]bool{}}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.joined.Go(k.accept)
	return k, nil
}
