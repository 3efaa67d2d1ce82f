// Package edgecmd holds the commands of the device's half: running the edge and
// looking after its modules over the local control socket.
package edgecmd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/cli/version"
	"github.com/selvedge-io/selvedge/edge/node"
)

// Env is what the commands need from the program around them.
type Env struct {
	Print   *show.Printer
	Timeout time.Duration
	Log     func() *slog.Logger
}

// Command makes the noun "edge".
func Command(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "edge", Short: "Run an edge gateway and look after its modules"}
	cmd.AddCommand(Verbs(env)...)
	return cmd
}

// Verbs makes the commands below "edge"; the small edge binary has them at its top.
func Verbs(env *Env) []*cobra.Command {
	var data string
	verbs := []*cobra.Command{run(env, &data), list(env, &data), logs(env, &data), restart(env, &data), status(env, &data)}
	for _, v := range verbs {
		v.Flags().StringVar(&data, "data", DefaultData(), "data directory of the edge")
	}
	return verbs
}

// DefaultData is where state is kept when --data is not given.
func DefaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/selvedge"
	}
	return "selvedge-data"
}

// DefaultConfig is the configuration file when --config is not given.
const DefaultConfig = "/etc/aziot/config.toml"

func run(env *Env, data *string) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "run", Short: "Run the edge gateway until SIGTERM or Ctrl-C", Args: cobra.NoArgs,
		Long: "Run the edge gateway: provision, run modules, broker their messages and forward them to the hub.\n" +
			"The configuration has the shape of the original's /etc/aziot/config.toml; see docs/edge-config.md.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := node.Load(config)
			if err != nil {
				return err
			}
			if cfg.DataDir == "" || cmd.Flags().Changed("data") {
				cfg.DataDir = *data
			}
			cfg.Version, cfg.Builtins = version.Read().Version, BuiltinNames()
			n, err := node.New(cfg, env.Log())
			if err != nil {
				return err
			}
			return Serve(cmd.Context(), n, func() { env.Print.Note("selvedge edge ready %s", n.Summary()) })
		},
	}
	cmd.Flags().StringVar(&config, "config", DefaultConfig, "configuration file")
	return cmd
}

// server is a long-running half of Selvedge.
type server interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// Serve runs s until ctx ends and calls ready once when it accepts connections.
func Serve(ctx context.Context, s server, ready func()) error {
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
		ready()
		return <-ended
	case err := <-ended:
		return err
	}
}

// socket finds the control socket for a data directory, which may be that of
// "selvedge dev": there the gateway's is one floor below.
func socket(data string) string {
	own, below := filepath.Join(data, node.ControlSocket), filepath.Join(data, "edge", node.ControlSocket)
	if _, err := os.Stat(own); os.IsNotExist(err) {
		if _, err := os.Stat(below); err == nil {
			return below
		}
	}
	return own
}

func complete(env *Env, data *string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		modules, err := dial(socket(*data)).modules(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]string, len(modules))
		for i, m := range modules {
			names[i] = m.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func list(env *Env, data *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the modules and their state", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), env.Timeout)
			defer cancel()
			raw, err := dial(socket(*data)).get(ctx, "/modules")
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, func() (*show.Rows, error) { return moduleRows(raw) })
		},
	}
}

func status(env *Env, data *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how the gateway is doing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), env.Timeout)
			defer cancel()
			raw, err := dial(socket(*data)).get(ctx, "/status")
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, nil)
		},
	}
}

func logs(env *Env, data *string) *cobra.Command {
	var follow bool
	var tail int
	var since string
	cmd := &cobra.Command{
		Use: "logs MODULE", Short: "Print a module's log", Args: cobra.ExactArgs(1),
		ValidArgsFunction: complete(env, data),
		RunE: func(cmd *cobra.Command, args []string) error {
			return dial(socket(*data)).logs(cmd.Context(), env.Print.Out, args[0], follow, tail, since)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing what the module writes")
	cmd.Flags().IntVar(&tail, "tail", 0, "only the last lines; 0 is all that is kept")
	cmd.Flags().StringVar(&since, "since", "", "only what was written since then: a duration such as 10m, or an RFC 3339 time")
	return cmd
}

func restart(env *Env, data *string) *cobra.Command {
	return &cobra.Command{
		Use: "restart MODULE", Short: "Stop a module and start it again", Args: cobra.ExactArgs(1),
		ValidArgsFunction: complete(env, data),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), env.Timeout)
			defer cancel()
			if err := dial(socket(*data)).restart(ctx, args[0]); err != nil {
				return err
			}
			env.Print.Note("restarted %s", args[0])
			return nil
		},
	}
}
