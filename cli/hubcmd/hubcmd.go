// Package hubcmd holds the commands of the server's half: running a hub and
// printing what its clients need to reach it.
package hubcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/edgecmd"
	"github.com/selvedge-io/selvedge/cli/opcmd"
	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/hub/server"
)

// Env is what the commands need from the program around them.
type Env struct {
	Print *show.Printer
	Log   func() *slog.Logger
}

// Command makes the noun "hub".
func Command(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "hub", Short: "Run a hub: registry, twins, methods, messages and the event stream"}
	cmd.AddCommand(run(env), ca(env), connectionString(env), idScope(env))
	return cmd
}

func dataFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "data", edgecmd.DefaultData(), "data directory of the hub")
}

func run(env *Env) *cobra.Command {
	cfg := server.Default()
	cmd := &cobra.Command{
		Use: "run", Short: "Run the hub until SIGTERM or Ctrl-C", Args: cobra.NoArgs,
		Long: "Run the hub. The first start makes a private certificate authority, a server certificate, the shared\n" +
			"access policies and the provisioning id scope in the data directory.",
		Example: "  selvedge hub run --data ./hub\n" +
			"  selvedge hub run --hostname hub.example.net --hostname localhost\n" +
			"  selvedge hub run --https 127.0.0.1:8443    # without root",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := server.New(cfg, env.Log())
			if err != nil { // all of the configuration comes from flags
				return show.Usagef("%v", err)
			}
			return edgecmd.Serve(cmd.Context(), s, func() {
				if err := remember(cfg.DataDir, s.Addresses()); err != nil {
					env.Log().Warn("local commands will not find this hub by themselves", "err", err)
				}
				env.Print.Note("selvedge hub ready %s", s.Summary())
			})
		},
	}
	dataFlag(cmd, &cfg.DataDir)
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Hostnames, "hostname", cfg.Hostnames, "host name clients use; repeatable")
	f.StringVar(&cfg.MQTT, "mqtt", cfg.MQTT, "address for MQTT over TLS")
	f.StringVar(&cfg.AMQP, "amqp", cfg.AMQP, "address for AMQP over TLS")
	f.StringVar(&cfg.HTTPS, "https", cfg.HTTPS, "address for HTTPS and WebSockets")
	f.StringVar(&cfg.Ops, "ops", cfg.Ops, "address for health and metrics, plain HTTP")
	f.StringVar(&cfg.PlainMQTT, "plain-mqtt", "", "address for MQTT without TLS; for measurements only")
	f.StringVar(&cfg.PlainAMQP, "plain-amqp", "", "address for AMQP without TLS; for measurements only")
	f.IntVar(&cfg.Partitions, "partitions", cfg.Partitions, "partitions of the event stream, fixed at the first start")
	f.StringSliceVar(&cfg.ConsumerGroups, "consumer-group", nil, "consumer group of the event stream besides $Default; repeatable")
	f.DurationVar(&cfg.Retention, "retention", cfg.Retention, "how long events are kept")
	f.BoolVar(&cfg.TwinEvents, "twin-events", false, "put changes of twins into the event stream too")
	f.BoolVar(&cfg.TestFaults, "test-faults", false, "obey the fault-injection properties of the SDKs' own test suites")
	return cmd
}

// listenersFile tells local commands where a hub on other than standard ports is.
const listenersFile = "listeners.json"

func remember(data string, a server.Addresses) error {
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("remember listeners: %w", err)
	}
	// Commands may read it meanwhile, and the machine may stop.
	name := filepath.Join(data, listenersFile)
	if err := os.WriteFile(name+".new", text, 0o644); err != nil {
		return fmt.Errorf("remember listeners: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("remember listeners: %w", err)
	}
	return nil
}

// Local is the hub whose data directory is at hand: the commands reach it without
// any --hub. It fails when there is none.
func Local(ctx context.Context, data string) (opcmd.Target, error) {
	cs, err := server.ConnectionString(ctx, data, "", "iothubowner", false)
	if err != nil {
		return opcmd.Target{}, err
	}
	pem, err := server.RootPEM(data)
	if err != nil {
		return opcmd.Target{}, err
	}
	var a server.Addresses
	if text, err := os.ReadFile(filepath.Join(data, listenersFile)); err == nil {
		if err := json.Unmarshal(text, &a); err != nil {
			return opcmd.Target{}, fmt.Errorf("read %s: %w; start the hub again, which writes it anew", listenersFile, err)
		}
	}
	return opcmd.Target{ConnectionString: cs, Address: a.HTTPS, RootPEM: pem}, nil
}

func ca(env *Env) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "ca", Short: "Print the hub's root certificate (PEM)", Args: cobra.NoArgs,
		Example: "  selvedge hub ca > root.pem && export NODE_EXTRA_CA_CERTS=root.pem",
		RunE: func(*cobra.Command, []string) error {
			pem, err := server.RootPEM(data)
			if err != nil {
				return err
			}
			return env.Print.Text(strings.TrimRight(string(pem), "\n"))
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func connectionString(env *Env) *cobra.Command {
	var data, policy, host string
	var eventHub bool
	cmd := &cobra.Command{
		Use: "connection-string", Short: "Print a connection string for service clients", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			cs, err := server.ConnectionString(ctx, data, host, policy, eventHub)
			if err != nil {
				return err
			}
			return env.Print.Text(cs)
		},
	}
	dataFlag(cmd, &data)
	policies := []string{"iothubowner", "service", "device", "registryRead", "registryReadWrite", "provisioningserviceowner"}
	cmd.Flags().StringVar(&policy, "policy", policies[0], "shared access policy: "+strings.Join(policies, ", "))
	cmd.Flags().StringVar(&host, "hostname", "", "host name to put in; default: the hub's first")
	cmd.Flags().BoolVar(&eventHub, "event-hub", false, "for Event Hubs clients of the event stream")
	_ = cmd.RegisterFlagCompletionFunc("policy", cobra.FixedCompletions(policies, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func idScope(env *Env) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "id-scope", Short: "Print the id scope of the provisioning service", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			scope, err := server.IDScope(ctx, data)
			if err != nil {
				return err
			}
			return env.Print.Text(scope)
		},
	}
	dataFlag(cmd, &data)
	return cmd
}
