package show

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// UsageError is a wrong command line: the program exits with 2.
type UsageError struct{ text string }

func (e UsageError) Error() string { return e.text }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Sprintf(format, args...)} }

// Exit prints err as one line and gives the exit code that fits: 0, 1 (failed) or
// 2 (usage).
func Exit(program string, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %s\n", program, strings.ReplaceAll(err.Error(), "\n", " "))
	if _, wrong := errors.AsType[UsageError](err); wrong || fromCobra(err) {
		return 2
	}
	return 1
}

// fromCobra recognises cobra's own complaints about a command line: it has no
// type for them.
func fromCobra(err error) bool {
	for _, prefix := range []string{"unknown command", "unknown flag", "unknown shorthand", "accepts ", "requires ",
		"invalid argument", "flag needs an argument", "required flag"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}
