//go:build !unix

package server

import "time"

// cpuTime is not known here.
func cpuTime() (d time.Duration, ok bool) { return 0, false }
