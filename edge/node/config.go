package node

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/storage/queue"
)

// Config says what one edge device is and how it runs. Load and Parse make it from
// the configuration file (docs/edge-config.md), Default has the defaults of all that
// has one.
type Config struct {
	DataDir  string // all state; whoever starts the node sets it when the file does not
	Hostname string // by which modules and devices reach this one
	Ops      string // address for health and metrics, plain HTTP; empty is off

	Provisioning Provisioning
	TrustBundle  string // PEM file with more roots to trust, also given to modules; may be empty
	EdgeCA       EdgeCA
	AgentEnv     map[string]string // settings of the agent in the original's names
	Broker       Broker
	Store        Store
	Upstream     Upstream

	// Builtins are the modules within this program, and Version is its own; they
	// come from whoever starts the node.
	Builtins []string
	Version  string

	// Warnings are about the file: for people, to be logged once.
	Warnings []string
}

// Provisioning is who this device is and how it proves it: with Key, or with the
// certificate and key in files.
type Provisioning struct {
	Hub    string // host name, without a port
	Device string
	Key    []byte // symmetric key, decoded

	CertFile, KeyFile string // PEM
}

// SetConnectionString takes over what the hub gives out for a device. Its errors never
// quote a key.
func (p *Provisioning) SetConnectionString(text string) error {
	return connectionString(p, text)
}

// EdgeCA is the authority for the certificates of this device: files, or, when there
// are none, one of our own in the data directory.
type EdgeCA struct {
	CertFile, KeyFile string // PEM; the certificate's chain may follow it
}

// Broker is where modules and devices connect. An empty address is off.
type Broker struct {
	MQTT      string // over TLS
	AMQP      string // over TLS
	HTTPS     string // WebSocket
	PlainMQTT string // without TLS, for measurements only
	PlainAMQP string // the same

	MaxConnections int // on all of them
	Window         int // messages under way to one input without acknowledgement
}

// Store bounds what is kept while it cannot be delivered.
type Store struct {
	MaxBytes int64
	Policy   queue.Policy
	MaxAge   time.Duration // zero is as long as the deployment says
}

// Upstream is how to reach the hub: in which protocol, and where when not at its host
// name and the standard ports.
type Upstream struct {
	Protocol string // as client.ParseProtocol reads it; empty: whichever leads there
	AMQP     string // host:port to connect to; TLS is still for the hub's name
	MQTT     string
	HTTPS    string // also for WebSockets
}

// Default is the configuration of an empty file.
func Default() Config {
	return Config{
		Broker: Broker{MQTT: ":8883", AMQP: ":5671", HTTPS: ":443", MaxConnections: 1000, Window: 256},
		Store:  Store{MaxBytes: 2 << 30},
	}
}

const day = 24 * time.Hour

// Load reads the configuration file. The errors name the line or key and what to do.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return Config{}, fmt.Errorf("there is no configuration file %s: write one (docs/edge-config.md) or pass --config", path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Config{}, fmt.Errorf("find the folder of %s: %w", path, err)
	}
	cfg, secret, err := parse(text, dir)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	if info, err := os.Stat(path); err == nil && secret && exposed(info.Mode()) {
		cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("%s holds a secret and everybody on this machine may read it: run  chmod 600 %s", path, path))
	}
	return cfg, nil
}

// Parse reads the text of a configuration file; relative paths in it are below dir.
func Parse(text []byte, dir string) (Config, error) {
	cfg, _, err := parse(text, dir)
	return cfg, err
}

// exposed says whether others than the owner and the group may read a file. Windows
// has no such bits, and says 0666 of every file.
func exposed(mode fs.FileMode) bool { return mode.Perm()&0o004 != 0 && os.PathSeparator == '/' }

// check says what is missing or does not fit together.
func (c *Config) check() error {
	p := c.Provisioning
	switch {
	case c.DataDir == "":
		return fmt.Errorf("data_dir: no data directory is given: set the key or pass --data")
	case p.Hub == "" || p.Device == "":
		return fmt.Errorf("provisioning: hub and device are not known")
	case len(p.Key) == 0 && (p.CertFile == "" || p.KeyFile == ""):
		return fmt.Errorf("provisioning.authentication: neither a key nor a certificate is given")
	}
	return nil
}

// defaultHostname is the machine's own name, as the original takes it.
func defaultHostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return cmp.Or(strings.ToLower(name), "localhost")
}
