// Package cli makes the command trees of Selvedge's programs and maps errors to
// exit codes. Commands only turn flags into values and print what comes back.
package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/edgecmd"
	"github.com/selvedge-io/selvedge/cli/hubcmd"
	"github.com/selvedge-io/selvedge/cli/opcmd"
	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/cli/version"
)

// Main runs the program selvedge and gives its exit code: 0, 1 (failed), 2 (usage).
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot(stdin, stdout, stderr)
	root.SetArgs(args)
	show.Nouns(root)
	cmd, err := root.ExecuteContextC(ctx)
	return show.Exit(cmd, err, stderr)
}

// settings are the flags that every command has.
type settings struct {
	output  string
	hub     string
	address string
	ca      string
	data    string
	verbose bool
}

func newRoot(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	s := &settings{}
	print := &show.Printer{Out: stdout, Err: stderr}
	log := func() *slog.Logger { return show.Logger(stderr, s.verbose) }
	op := &opcmd.Env{Print: print, Stdin: stdin, Target: s.target}
	edge := &edgecmd.Env{Print: print, Log: log}
	hub := &hubcmd.Env{Print: print, Log: log}

	root := &cobra.Command{
		Use:   "selvedge",
		Short: "An edge platform that speaks Azure IoT's own protocols, on your own machines",
		Long: "Selvedge is everything Azure IoT Edge, IoT Hub and the Device Provisioning Service do together,\n" +
			"in one program that you run yourself. Start with:  selvedge dev",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			format, err := show.ParseFormat(s.output)
			print.Format = format
			edge.Timeout = op.Timeout
			return err
		},
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	f := root.PersistentFlags()
	f.StringVarP(&s.output, "output", "o", "table", "how to print answers: table, json or yaml")
	// What the environment says is no default: help prints defaults, and this one holds a key.
	f.StringVar(&s.hub, "hub", "", "connection string of the hub (SELVEDGE_HUB); default: the hub whose data is here")
	f.StringVar(&s.address, "hub-address", "", "host:port of the hub's HTTPS when it is not HostName:443 (SELVEDGE_HUB_ADDRESS)")
	f.StringVar(&s.ca, "ca", "", "PEM file with the hub's root certificate (SELVEDGE_CA)")
	f.StringVar(&s.data, "hub-data", edgecmd.DefaultData(), "data directory to find a local hub in when --hub is not given")
	f.DurationVar(&op.Timeout, "timeout", time.Minute, "give up a call after this long")
	f.BoolVarP(&print.Quiet, "quiet", "q", false, "print answers and errors only")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "log more")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))

	root.AddCommand(hubcmd.Command(hub), edgecmd.Command(edge), hubcmd.Dev(hub), version.Command(print))
	root.AddCommand(opcmd.Commands(op)...)
	for _, c := range root.Commands() {
		if c.Name() == "module" {
			c.AddCommand(edgecmd.Builtins(edge)...)
		}
	}
	return root
}

// target finds the hub to talk to: the one named, or the one whose data is here.
func (s *settings) target(ctx context.Context) (opcmd.Target, error) {
	hub := cmp.Or(s.hub, os.Getenv("SELVEDGE_HUB"))
	if hub == "" {
		t, err := hubcmd.Local(ctx, s.data)
		if err != nil {
			return t, fmt.Errorf("which hub? pass --hub CONNECTION-STRING or set SELVEDGE_HUB "+
				"(no hub of our own in %s: %w)", s.data, err)
		}
		return t, nil
	}
	t := opcmd.Target{ConnectionString: hub, Address: cmp.Or(s.address, os.Getenv("SELVEDGE_HUB_ADDRESS"))}
	if ca := cmp.Or(s.ca, os.Getenv("SELVEDGE_CA")); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return t, fmt.Errorf("read --ca: %w", err)
		}
		t.RootPEM = pem
	} else if local, err := hubcmd.Local(ctx, s.data); err == nil {
		t.RootPEM = local.RootPEM
	}
	return t, nil
}
