// Package process runs modules as plain processes of this machine. A module has a
// folder of its own, runs in its own session with a small environment, and runs on
// while we restart: the next start finds it again by its process id, its start time
// and the boot it belongs to.
//
// What a module writes goes straight into a file, so that it never waits for us and
// loses nothing when we die. Its lines are therefore not stamped; how long the file
// was at which time is noted beside it, about once a second, and answers "since".
package process

import (
	"log/slog"
	"time"
)

// Config of a Driver. What is zero has a default.
type Config struct {
	Dir string // holds a folder for each module

	// Self is our own program and SelfArgs what goes before the name of a builtin
	// module; they are os.Executable and "module" when zero.
	Self     string
	SelfArgs []string
	Builtins []string // names that there are; nil leaves the check to the program

	Path string // where to look for commands, the PATH of modules; ours when zero

	// LogBytes is how much of a module's output is kept at least, 10 MiB when
	// zero; a quarter more may be on disk.
	LogBytes int64

	StopAfter time.Duration // how long a module may take to end, runtime.DefaultStop when zero
	Log       *slog.Logger  // nil is silence
}

// defaultPath is the PATH of modules when we have none ourselves.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
