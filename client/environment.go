package client

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// Option changes the Config of a Session that FromConnectionString or FromEnvironment
// makes, after they have filled it in.
type Option func(*Config)

// FromConnectionString makes the Session of a device or module from Azure's connection
// string. One with x509=true needs an Option that sets Certificates.
func FromConnectionString(text string, opts ...Option) (*Session, error) {
	cfg, err := fromConnectionString(text)
	if err != nil {
		return nil, err
	}
	return finish(cfg, opts)
}

func finish(cfg Config, opts []Option) (*Session, error) {
	for _, o := range opts {
		o(&cfg)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return NewSession(cfg), nil
}

func fromConnectionString(text string) (Config, error) {
	cs, err := sas.ParseConnectionString(text)
	if err != nil {
		return Config{}, err
	}
	if cs.HostName == "" || cs.DeviceID == "" {
		return Config{}, errors.New("connection string is not that of a device or module: it has no HostName or no DeviceId")
	}
	cfg := Config{
		Host: cs.HostName, Gateway: cs.GatewayHostName,
		ID: ident.ID{Device: cs.DeviceID, Module: cs.ModuleID},
	}
	switch {
	case cs.X509:
	case cs.SharedAccessSignature != "":
		cfg.Credentials = func(context.Context, string, time.Time) (string, error) { return cs.SharedAccessSignature, nil }
	default:
		key, err := cs.Key()
		if err != nil {
			return Config{}, err
		}
		cfg.Credentials = SharedKey(key, cs.SharedAccessKeyName)
	}
	return cfg, nil
}

// FromEnvironment makes the Session of an edge module from the environment that an
// edge runtime gives it; getenv is os.Getenv.
//
// Usually that is the workload API (edge-runtime 3.2): IOTEDGE_WORKLOADURI (unix:// or
// http://), IOTEDGE_DEVICEID, IOTEDGE_MODULEID, IOTEDGE_MODULEGENERATIONID,
// IOTEDGE_IOTHUBHOSTNAME, IOTEDGE_AUTHSCHEME (sasToken) and IOTEDGE_GATEWAYHOSTNAME,
// the edge broker's name. The runtime signs tokens, so the module never sees its key,
// and only the runtime's trust bundle is trusted, which is fetched each time a
// connection is made. Without a gateway name the module connects to the hub and the
// system's roots are trusted.
//
// EdgeHubConnectionString (or IotHubConnectionString) comes first if it is set: a
// connection string, and in EdgeModuleCACertificateFile a PEM file with the only roots
// to trust.
//
// The protocol is MQTT unless ClientTransportType, as Azure's samples have it, names
// another: Amqp_Tcp_Only, Amqp_WebSocket_Only, Mqtt_WebSocket_Only, or Amqp for the first.
//
// SELVEDGE_GATEWAY_MQTT, SELVEDGE_GATEWAY_AMQP and, for WebSockets,
// SELVEDGE_GATEWAY_HTTPS are Selvedge's own: host:port to dial instead of the protocol's
// port of the gateway, for brokers that run without the right to that port. Names in
// certificates are checked as ever.
func FromEnvironment(getenv func(string) string, opts ...Option) (*Session, error) {
	cfg, err := fromEnvironment(getenv)
	if err == nil {
		cfg.Protocol, err = transport(getenv("ClientTransportType"))
	}
	if err != nil {
		return nil, fmt.Errorf("read environment of module: %w", err)
	}
	return finish(cfg, append(slices.Clone(opts), func(c *Config) {
		if c.Address == "" && int(c.Protocol) < len(protocols) {
			c.Address = getenv("SELVEDGE_GATEWAY_" + protocols[c.Protocol].env)
		}
	}))
}

// transport reads a name of Azure's for a protocol.
func transport(name string) (Protocol, error) {
	switch strings.ToLower(name) {
	case "", "mqtt", "mqtt_tcp_only":
		return MQTT, nil
	case "mqtt_websocket_only":
		return MQTTWS, nil
	case "amqp", "amqp_tcp_only":
		return AMQP, nil
	case "amqp_websocket_only":
		return AMQPWS, nil
	}
	return 0, fmt.Errorf("ClientTransportType is %q, known are Mqtt, Amqp and either with _Tcp_Only or _WebSocket_Only", name)
}

func fromEnvironment(getenv func(string) string) (Config, error) {
	text := cmp.Or(getenv("EdgeHubConnectionString"), getenv("IotHubConnectionString"))
	if text == "" {
		return fromWorkload(getenv)
	}
	cfg, err := fromConnectionString(text)
	if err != nil {
		return Config{}, err
	}
	if file := getenv("EdgeModuleCACertificateFile"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return Config{}, fmt.Errorf("EdgeModuleCACertificateFile: %w", err)
		}
		if cfg.RootCAs, err = poolOf(pem); err != nil {
			return Config{}, fmt.Errorf("EdgeModuleCACertificateFile %s: %w", file, err)
		}
	}
	return cfg, nil
}

func fromWorkload(getenv func(string) string) (Config, error) {
	values := make(map[string]string)
	for _, name := range []string{"WORKLOADURI", "DEVICEID", "MODULEID", "MODULEGENERATIONID", "IOTHUBHOSTNAME", "AUTHSCHEME"} {
		if values[name] = getenv("IOTEDGE_" + name); values[name] == "" {
			return Config{}, fmt.Errorf("IOTEDGE_%s is not set, nor is EdgeHubConnectionString: modules are started by an edge runtime", name)
		}
	}
	if scheme := values["AUTHSCHEME"]; !strings.EqualFold(scheme, "sasToken") {
		return Config{}, fmt.Errorf("IOTEDGE_AUTHSCHEME is %q, only sasToken is known", scheme)
	}
	w, err := newWorkload(values["WORKLOADURI"], values["MODULEID"], values["MODULEGENERATIONID"])
	if err != nil {
		return Config{}, err
	}
	cfg := Config{
		Host: values["IOTHUBHOSTNAME"], Gateway: getenv("IOTEDGE_GATEWAYHOSTNAME"),
		ID:          ident.ID{Device: values["DEVICEID"], Module: values["MODULEID"]},
		Credentials: w.token,
	}
	if cfg.Gateway != "" {
		cfg.Roots = w.roots
	}
	return cfg, nil
}

// poolOf makes a pool of the certificates in PEM.
func poolOf(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate in it")
	}
	return pool, nil
}
