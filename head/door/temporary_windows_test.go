package door

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/windows"
)

// A server does not end because strangers took all handles.
func TestShortageIsTemporary(t *testing.T) {
	if !isTemporary(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept", windows.WSAEMFILE)}) || isTemporary(net.ErrClosed) {
		t.Error("shortage is not told from the end of the listener")
	}
}
