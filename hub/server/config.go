// Package server is the whole hub as one value: it opens the rooms of the hub over
// one data directory, stands behind the protocol heads as their head.Backend, and
// serves devices, services and operations until it is told to stop.
package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/hub/events"
)

// Config is what a hub is told. Start from Default.
type Config struct {
	// DataDir holds all that the hub keeps: database, events, keys and certificates.
	DataDir string

	// Hostnames are the names clients use, each good in tokens and certificates.
	// The first is printed in connection strings; the part before its first dot is
	// the hub's name.
	Hostnames []string

	// Addresses to listen on. An empty one is not served; Ops is plain HTTP.
	MQTT, AMQP, HTTPS, Ops string
	// PlainMQTT and PlainAMQP are without TLS, which is for measurements only.
	PlainMQTT, PlainAMQP string

	// Partitions of the event stream; what counts is the number at the first start.
	Partitions int
	// ConsumerGroups of the event stream besides $Default.
	ConsumerGroups []string
	// Retention is how long events are kept, RetentionBytes how many bytes of them;
	// the oldest go first. No bytes are no bound.
	Retention      time.Duration
	RetentionBytes int64

	// TwinEvents puts changes of twins into the event stream, as a hub with a route
	// for them does.
	TwinEvents bool
	// TestFaults makes the hub obey the properties by which the SDKs' own test
	// suites break their connections (device-protocol 13).
	TestFaults bool
}

// Default is a hub on Azure's ports, called localhost and what this machine is.
func Default() Config {
	cfg := Config{
		DataDir:    "selvedge-data",
		Hostnames:  []string{"localhost"},
		MQTT:       ":8883",
		AMQP:       ":5671",
		HTTPS:      ":443",
		Ops:        "127.0.0.1:9600",
		Partitions: 4,
		Retention:  24 * time.Hour,

		RetentionBytes: 16 << 30,
	}
	if name, err := os.Hostname(); err == nil && isHostname(name) && !strings.EqualFold(name, "localhost") {
		cfg.Hostnames = append(cfg.Hostnames, strings.ToLower(name))
	}
	return cfg
}

// isHostname says whether s may stand as a host in connection strings and tokens.
func isHostname(s string) bool {
	return s != "" && len(s) <= 253 && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	}) < 0
}

// minRetention is the least time that events are kept.
const minRetention = time.Minute

// check says what is wrong with the configuration before anything is opened.
func (c *Config) check() error {
	if c.DataDir == "" {
		return errors.New("name a data directory for the hub")
	}
	if len(c.Hostnames) == 0 {
		return errors.New("a hub needs at least one host name")
	}
	c.Hostnames = slices.Clone(c.Hostnames)
	for i, name := range c.Hostnames {
		name = strings.ToLower(strings.TrimSpace(name))
		if !isHostname(name) {
			return fmt.Errorf("%q is not a host name; give the name alone, without scheme and port", c.Hostnames[i])
		}
		c.Hostnames[i] = name
	}
	for _, l := range []struct{ what, address string }{
		{"MQTT", c.MQTT}, {"AMQP", c.AMQP}, {"HTTPS", c.HTTPS}, {"operations", c.Ops},
		{"plain MQTT", c.PlainMQTT}, {"plain AMQP", c.PlainAMQP},
	} {
		if l.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(l.address); err != nil {
			return fmt.Errorf("address for %s: %w; write HOST:PORT or :PORT", l.what, err)
		}
	}
	if c.Partitions < 1 || c.Partitions > events.MaxPartitions {
		return fmt.Errorf("the event stream can have 1 to %d partitions, not %d", events.MaxPartitions, c.Partitions)
	}
	if err := checkGroups(c.ConsumerGroups); err != nil {
		return err
	}
	if c.Retention < minRetention {
		return fmt.Errorf("events must be kept for %v at least, not %v", minRetention, c.Retention)
	}
	if c.RetentionBytes < 0 {
		return errors.New("events cannot have less than no bytes")
	}
	return nil
}

// maxGroups is how many consumer groups there can be, $Default included, as in Azure.
const maxGroups = 20

// checkGroups says what is wrong with the names of consumer groups (Event Hubs: up to 50
// letters, digits, periods, hyphens and underscores).
func checkGroups(names []string) error {
	if len(names) >= maxGroups {
		return fmt.Errorf("there can be %d consumer groups besides %s, not %d", maxGroups-1, events.DefaultGroup, len(names))
	}
	seen := map[string]bool{strings.ToLower(events.DefaultGroup): true}
	for _, name := range names {
		if name == "" || len(name) > 50 || strings.Trim(name, "._-") != name || !isHostname(name) {
			return fmt.Errorf("%q cannot be the name of a consumer group; take letters, digits, periods, hyphens and underscores", name)
		}
		if seen[strings.ToLower(name)] {
			return fmt.Errorf("the consumer group %q is named twice", name)
		}
		seen[strings.ToLower(name)] = true
	}
	return nil
}

// Names of what lies in the data directory.
const (
	lockName     = "hub.lock"
	databaseName = "hub.db"
	keysName     = "hub-keys"
	caName       = "ca"
	eventsName   = "events"
)

func database(data string) string { return filepath.Join(data, databaseName) }

// isEmpty says whether the database is missing or has nothing in it yet.
func isEmpty(data string) bool {
	info, err := os.Stat(database(data))
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
}

// checkDatabase says whether the database of a hub that ran before is gone: to start anew
// then would be to forget all devices and make other keys. The folder of events is made
// when the database is complete.
func checkDatabase(data string) error {
	if _, err := os.Stat(filepath.Join(data, eventsName)); err != nil || !isEmpty(data) {
		return nil // the first start; what else is wrong shows when it is opened
	}
	return fmt.Errorf("the database %s is missing or empty, but this hub has run before: bring it back from a backup, "+
		"or move %s away to start with no devices and new keys", database(data), data)
}
