package edgecmd

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/cli/version"
)

// Main runs the program selvedge-edge, the device's half alone, and gives its
// exit code. Its commands are those below "selvedge edge"; that noun works too,
// so that scripts run with either program.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var output string
	var verbose bool
	print := &show.Printer{Out: stdout, Err: stderr}
	env := &Env{Print: print, Log: func() *slog.Logger { return show.Logger(stderr, verbose) }}
	root := &cobra.Command{
		Use: "selvedge-edge", Short: "The device's half of Selvedge: run modules, broker and forward their messages",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			format, err := show.ParseFormat(output)
			print.Format = format
			return err
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	f := root.PersistentFlags()
	f.StringVarP(&output, "output", "o", "table", "how to print answers: table, json or yaml")
	f.DurationVar(&env.Timeout, "timeout", time.Minute, "give up a call after this long")
	f.BoolVarP(&print.Quiet, "quiet", "q", false, "print answers and errors only")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	root.AddCommand(Verbs(env)...)
	noun := Command(env)
	noun.Hidden = true
	modules := &cobra.Command{Use: "module", Short: "Run a module that ships with Selvedge", Hidden: true}
	modules.AddCommand(Builtins(env)...)
	root.AddCommand(noun, modules, version.Command(print))
	show.Nouns(root)
	cmd, err := root.ExecuteContextC(ctx)
	return show.Exit(cmd, err, stderr)
}
