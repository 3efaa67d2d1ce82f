//go:build !unix

package mqtthead

// isTemporary says whether accepting may work again later.
func isTemporary(error) bool { return false }
