package show

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// UsageError is a wrong command line: the program exits with 2.
type UsageError struct{ text string }

func (e UsageError) Error() string { return e.text }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Sprintf(format, args...)} }

// oneLine keeps an error of several lines, as cobra's with suggestions, in one.
var oneLine = strings.NewReplacer("\n\n", " ", "\n", " ", "\t", "")

// Exit prints err, which came of cmd, as one line and gives the exit code that fits:
// 0, 1 (failed) or 2 (usage).
func Exit(cmd *cobra.Command, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	text, code := oneLine.Replace(err.Error()), 1
	switch _, wrong := errors.AsType[UsageError](err); {
	case wrong:
		code = 2
	case fromCobra(err):
		text, _, _ = strings.Cut(text, ": strconv.") // which says nothing more
		text += "; see: " + cmd.CommandPath() + " --help"
		code = 2
	}
	fmt.Fprintf(stderr, "%s: %s\n", cmd.Root().Name(), text)
	return code
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

// Nouns makes the commands that only group others refuse a word they do not know,
// which cobra answers with help and success. Alone they print their help, as before.
func Nouns(root *cobra.Command) {
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args = cobra.NoArgs
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
		Nouns(c)
	}
}
