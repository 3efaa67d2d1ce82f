package door

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isTemporary says whether accepting may work again later: handles or buffers ran out,
// or the peer left the queue.
func isTemporary(err error) bool {
	for _, e := range []error{windows.WSAEMFILE, windows.WSAENOBUFS, windows.WSAECONNABORTED, windows.WSAECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
