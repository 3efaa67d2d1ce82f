//go:build !unix && !windows

package door

// isTemporary says whether accepting may work again later.
func isTemporary(error) bool { return false }
