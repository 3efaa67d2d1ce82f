package edgecmd

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/modules/filter"
	"github.com/selvedge-io/selvedge/modules/sensor"
)

// builtin is a module inside our own program.
type builtin func(ctx context.Context, env func(string) string, log *slog.Logger) error

var builtins = map[string]struct {
	run   builtin
	short string
}{
	"sensor": {sensor.Run, "Run the simulated temperature sensor"},
	"filter": {filter.Run, "Run the temperature filter"},
}

// BuiltinNames are the names by which deployments call the modules within this program.
func BuiltinNames() []string { return slices.Sorted(maps.Keys(builtins)) }

// Builtins makes one hidden command for each module that ships with Selvedge; the
// edge starts them as it starts any other process.
func Builtins(env *Env) []*cobra.Command {
	var cmds []*cobra.Command
	for name, m := range builtins {
		cmds = append(cmds, &cobra.Command{
			Use: name, Short: m.short, Args: cobra.NoArgs, Hidden: true,
			RunE: func(cmd *cobra.Command, _ []string) error { return m.run(cmd.Context(), os.Getenv, env.Log()) },
		})
	}
	return cmds
}
