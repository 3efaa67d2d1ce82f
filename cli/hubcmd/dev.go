package hubcmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/edgecmd"
	"github.com/selvedge-io/selvedge/cli/opcmd"
	"github.com/selvedge-io/selvedge/cli/version"
	"github.com/selvedge-io/selvedge/edge/node"
	"github.com/selvedge-io/selvedge/hub/server"
)

// devDevice is the id of the gateway that "dev" runs.
const devDevice = "edge"

// Dev makes the command "dev".
func Dev(env *Env) *cobra.Command {
	var data, manifest string
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a hub and one edge gateway in this process, for laptops and CI", Args: cobra.NoArgs,
		Long: "Run a hub and one edge gateway, called " + devDevice + ", in this process until SIGTERM or Ctrl-C.\n" +
			"The hub's data is in the data directory, the gateway's in its folder " + devDevice + ".",
		Example: "  selvedge dev\n  selvedge dev --manifest deploy/demo/manifest.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var deployment []byte
			if manifest != "" {
				var err error
				if deployment, err = os.ReadFile(manifest); err != nil {
					return fmt.Errorf("read --manifest: %w", err)
				}
			}
			return (&dev{Env: env, data: data, deployment: deployment}).run(cmd.Context())
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&manifest, "manifest", "", "deployment manifest for the gateway")
	return cmd
}

// dev is one run of the command.
type dev struct {
	*Env
	data       string
	deployment []byte
}

// run starts the hub, then the gateway, and stops them in reverse when ctx ends or one
// of them does.
func (d *dev) run(ctx context.Context) error {
	cfg := server.Default()
	cfg.DataDir = d.data
	for _, listen := range []struct {
		address *string
		what    string
	}{{&cfg.MQTT, "Azure's SDKs insist on it"}, {&cfg.AMQP, "Azure's SDKs insist on it"},
		{&cfg.HTTPS, "Azure's SDKs and tools insist on it"}, {&cfg.Ops, ""}} {
		if err := d.settle(listen.address, listen.what); err != nil {
			return err
		}
	}
	hub, err := server.New(cfg, d.Log().With("part", "hub"))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hubCtx, stopHub := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHub()
	ended := make(chan error, 1)
	go func() {
		defer stop() // no gateway without its hub
		ended <- hub.Run(hubCtx)
	}()
	select {
	case <-hub.Ready():
		err = d.gateway(ctx, hub)
	case <-ctx.Done():
	}
	stopHub()
	return errors.Join(err, <-ended)
}

// gateway runs the edge until ctx ends.
func (d *dev) gateway(ctx context.Context, hub *server.Server) error {
	at := hub.Addresses()
	if err := remember(d.data, at); err != nil {
		d.Log().Warn("local commands will not find this hub by themselves", "err", err)
	}
	target, err := Local(ctx, d.data)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	identity, err := opcmd.EnsureEdge(within, target, devDevice)
	if err != nil {
		return fmt.Errorf("register the gateway: %w", err)
	}
	if d.deployment != nil {
		if err := opcmd.Deploy(within, target, devDevice, d.deployment); err != nil {
			return fmt.Errorf("deploy --manifest: %w", err)
		}
	}
	cfg, err := d.edge(identity, target.RootPEM, at)
	if err != nil {
		return err
	}
	edge, err := node.New(cfg, d.Log().With("part", "edge"))
	if err != nil {
		return err
	}
	return edgecmd.Serve(ctx, edge, func() { d.welcome(hub, edge) })
}

// edge is the gateway's configuration.
func (d *dev) edge(identity string, root []byte, hub server.Addresses) (node.Config, error) {
	dir := filepath.Join(d.data, devDevice)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return node.Config{}, fmt.Errorf("make the gateway's data directory: %w", err)
	}
	cfg := node.Default()
	cfg.DataDir, cfg.Hostname, cfg.Version = dir, "localhost", version.Read().Version
	cfg.Builtins = edgecmd.BuiltinNames()
	cfg.Broker.MQTT, cfg.Broker.AMQP, cfg.Broker.HTTPS = "127.0.0.1:18883", "127.0.0.1:15671", "" // the standard ports are the hub's
	for _, address := range []*string{&cfg.Broker.MQTT, &cfg.Broker.AMQP} {
		if err := d.settle(address, ""); err != nil {
			return cfg, err
		}
	}
	cfg.Upstream = node.Upstream{AMQP: loopback(hub.AMQP), MQTT: loopback(hub.MQTT), HTTPS: loopback(hub.HTTPS)}
	cfg.TrustBundle = filepath.Join(dir, "hub-root.pem")
	if err := os.WriteFile(cfg.TrustBundle, root, 0o644); err != nil {
		return cfg, fmt.Errorf("write the hub's root certificate: %w", err)
	}
	return cfg, cfg.Provisioning.SetConnectionString(identity)
}

// loopback is where to reach on this machine what listens on addr.
func loopback(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// settle moves an address to a free port above 20000 when its own may not be used or
// is taken, and says so.
func (d *dev) settle(addr *string, why string) error {
	host, text, err := net.SplitHostPort(*addr)
	if err != nil {
		return fmt.Errorf("address %s: %w", *addr, err)
	}
	wanted, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("address %s: %w", *addr, err)
	}
	for port := wanted; port < 1<<16; {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			l.Close()
			if port != wanted && why != "" {
				d.Print.Note("port %d cannot be used, using %d: %s, Selvedge's own tools do not", wanted, port, why)
			}
			*addr = net.JoinHostPort(host, strconv.Itoa(port))
			return nil
		}
		if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listen on %s: %w", *addr, err)
		}
		if port++; port < 20000 {
			port += 20000 - 1
		}
	}
	return fmt.Errorf("no port is free for %s", *addr)
}

// welcome says what there is and what to try.
func (d *dev) welcome(hub *server.Server, edge *node.Node) {
	data, elsewhere := "", ""
	if d.data != edgecmd.DefaultData() {
		data = " --data " + d.data
	}
	if address := hub.Addresses().HTTPS; !standard(address) {
		elsewhere = "\n  export SELVEDGE_HUB_ADDRESS=" + loopback(address)
	}
	d.Print.Note("selvedge hub ready %s", hub.Summary())
	d.Print.Note("selvedge edge ready %s", edge.Summary())
	d.Print.Note(`
Try in another terminal:
  export SELVEDGE_HUB="$(selvedge hub connection-string%[1]s)"
  selvedge hub ca%[1]s > root.pem; export SELVEDGE_CA=root.pem%[2]s
  selvedge device create pump-7
  selvedge device connection-string pump-7     # for an Azure SDK
  selvedge events                              # telemetry, as it comes
  selvedge deployment set-modules %[3]s deploy/demo/manifest.json
  selvedge edge list%[1]s
Ctrl-C ends.`, data, elsewhere, devDevice)
}

func standard(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port == "443"
}
