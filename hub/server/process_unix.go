//go:build unix

package server

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the processor time of the process so far.
func cpuTime() (d time.Duration, ok bool) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
