//go:build !linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/selvedge-io/selvedge/edge/runtime"
)

// ErrUnsupported is what New answers where modules cannot run as processes. It is an
// errors.ErrUnsupported.
var ErrUnsupported = fmt.Errorf("modules of type process need Linux: %w", errors.ErrUnsupported)

// Driver cannot be made on this system.
type Driver struct{}

// New answers ErrUnsupported.
func New(Config) (*Driver, error) { return nil, ErrUnsupported }

// Start answers ErrUnsupported, as all methods do.
func (*Driver) Start(context.Context, runtime.Module) error { return ErrUnsupported }

// Stop answers ErrUnsupported.
func (*Driver) Stop(context.Context, string) error { return ErrUnsupported }

// Remove answers ErrUnsupported.
func (*Driver) Remove(context.Context, string) error { return ErrUnsupported }

// List answers ErrUnsupported.
func (*Driver) List(context.Context) ([]runtime.State, error) { return nil, ErrUnsupported }

// Watch answers ErrUnsupported.
func (*Driver) Watch(context.Context, func(runtime.State)) error { return ErrUnsupported }

// Logs answers ErrUnsupported.
func (*Driver) Logs(context.Context, string, runtime.LogQuery) (io.ReadCloser, error) {
	return nil, ErrUnsupported
}

// Close does nothing.
func (*Driver) Close() error { return nil }
