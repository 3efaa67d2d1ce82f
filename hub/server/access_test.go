package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestConnectionString(t *testing.T) {
	h := startHub(t, nil)
	data := h.cfg.DataDir
	check := func(state string) {
		t.Helper()
		for _, c := range []struct {
			host, policy string
			events       bool
			want         string
		}{
			{"", "iothubowner", false, `^HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey=[A-Za-z0-9+/]{43}=$`},
			{"other.net", "service", false, `^HostName=other\.net;SharedAccessKeyName=service;SharedAccessKey=[A-Za-z0-9+/]{43}=$`},
			{"", "provisioningserviceowner", false, `^HostName=localhost;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=.{44}$`},
			{"", "iothubowner", true, `^Endpoint=sb://localhost/;SharedAccessKeyName=iothubowner;SharedAccessKey=.{44};EntityPath=selvedge$`},
		} {
			cs, err := ConnectionString(t.Context(), data, c.host, c.policy, c.events)
			if err != nil || !regexp.MustCompile(c.want).MatchString(cs) {
				t.Errorf("%s: %q, %v; want %s", state, cs, err, c.want)
			}
		}
		if _, err := ConnectionString(t.Context(), data, "", "nobody", false); err == nil || !strings.Contains(err.Error(), "registryRead") {
			t.Errorf("%s: an unknown policy gives %v", state, err)
		}
	}
	check("running")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	check("stopped")
}

// Asking about a hub that is not there must not make one.
func TestNoHubThere(t *testing.T) {
	data := filepath.Join(t.TempDir(), "nothing")
	_, csErr := ConnectionString(t.Context(), data, "", "iothubowner", false)
	_, scopeErr := IDScope(t.Context(), data)
	_, rootErr := RootPEM(data)
	for _, err := range []error{csErr, scopeErr} {
		if err == nil || !strings.Contains(err.Error(), "selvedge hub run") {
			t.Errorf("%v does not say what to do", err)
		}
	}
	if rootErr == nil {
		t.Error("a root out of nothing")
	}
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

func TestSecretsAreForTheirOwner(t *testing.T) {
	h := startHub(t, nil)
	h.create(pump, `{}`)
	err := filepath.WalkDir(h.cfg.DataDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && filepath.Base(name) != "root.pem" {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Default(), nil); err != nil {
		t.Errorf("the default: %v", err)
	}
	for want, change := range map[string]func(*Config){
		"data directory": func(c *Config) { c.DataDir = "" },
		"host name":      func(c *Config) { c.Hostnames = nil },
		"without scheme": func(c *Config) { c.Hostnames = []string{"https://x"} },
		"not a host":     func(c *Config) { c.Hostnames = []string{"a:8883"} },
		"MQTT":           func(c *Config) { c.MQTT = "8883" },
		"AMQP":           func(c *Config) { c.AMQP = "5671" },
		"HTTPS":          func(c *Config) { c.HTTPS = "localhost" },
		"partitions":     func(c *Config) { c.Partitions = 0 },
		"consumer group": func(c *Config) { c.ConsumerGroups = []string{"a b"} },
		"twice":          func(c *Config) { c.ConsumerGroups = []string{"one", "One"} },
		"besides":        func(c *Config) { c.ConsumerGroups = strings.Fields(strings.Repeat("x ", maxGroups)) },
		"kept":           func(c *Config) { c.Retention = 0 },
	} {
		cfg := Default()
		change(&cfg)
		if _, err := New(cfg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	cfg := Default()
	cfg.Hostnames = []string{" Hub.Example.NET "}
	s, err := New(cfg, nil)
	if err != nil || s.cfg.Hostnames[0] != "hub.example.net" || cfg.Hostnames[0] != " Hub.Example.NET " {
		t.Errorf("host names %v, %v", s.cfg.Hostnames, err)
	}
}

func TestCancelledWhileStarting(t *testing.T) {
	cfg := Default()
	cfg.DataDir, cfg.MQTT, cfg.AMQP, cfg.HTTPS, cfg.Ops = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", ""
	s, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("%v", err)
	}
}
