// Package runtime holds the words that the agent and the drivers that run modules
// share: what to run and what became of it. Drivers live in the folders below.
package runtime

import (
	"encoding/json"
	"time"
)

// Module says what to run. A driver keeps no more of it than it needs to recognise
// the module later.
type Module struct {
	Name     string
	Settings json.RawMessage   // "settings" of the manifest, in the driver's own form
	Env      map[string]string // complete, the IOTEDGE_ variables included

	// Version identifies this very configuration, the environment included. A
	// running module with another version is to be replaced.
	Version string
}

// State is what a driver knows of one module that it created.
type State struct {
	Name    string
	Version string // as given with Module
	Running bool

	// ExitCode is that of the last exit; -1 when it could not be learned, such as
	// after a restart of ours during which the module ended.
	ExitCode int

	Started time.Time // of the last start
	Exited  time.Time // of the last exit; zero when it never ended
	PID     int       // zero when it does not run or has none
}

// LogQuery says which part of a module's log to read.
type LogQuery struct {
	Follow bool      // go on with what is written from now on, until ctx ends
	Tail   int       // only the last lines; zero is all that is kept
	Since  time.Time // only what was written from then on; zero is all
}

// DefaultStop is how long a module may take to end by itself when it is told to.
const DefaultStop = 10 * time.Second
