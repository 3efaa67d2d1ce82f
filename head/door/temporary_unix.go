//go:build unix

package door

import (
	"errors"
	"syscall"
)

// isTemporary says whether accepting may work again later: descriptors or memory
// ran out, or the peer left the queue.
func isTemporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
