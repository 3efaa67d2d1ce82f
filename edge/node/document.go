package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/storage/queue"
)

// document is the configuration file as written: the original's super-config
// (edge-runtime 3.9) and our own tables. What has the type any is known, so that it is
// not taken for a typing mistake, and its fate is in the table foreign.
type document struct {
	Hostname    string `toml:"hostname"`
	DataDir     string `toml:"data_dir"`
	Ops         string `toml:"ops"`
	TrustBundle string `toml:"trust_bundle_cert"`

	Provisioning struct {
		Source           string `toml:"source"`
		ConnectionString string `toml:"connection_string"`
		Hub              string `toml:"iothub_hostname"`
		Device           string `toml:"device_id"`
		Authentication   struct {
			Method string `toml:"method"`
			Key    struct {
				Value string `toml:"value"`
				URI   string `toml:"uri"`
			} `toml:"device_id_pk"`
			Cert any    `toml:"identity_cert"` // a URI; the original also takes a table
			PK   string `toml:"identity_pk"`
		} `toml:"authentication"`

		GlobalEndpoint any `toml:"global_endpoint"`
		IDScope        any `toml:"id_scope"`
		Payload        any `toml:"payload"`
		Attestation    any `toml:"attestation"`
	} `toml:"provisioning"`

	EdgeCA struct {
		Cert string `toml:"cert"`
		PK   string `toml:"pk"`

		Days       any `toml:"auto_generated_edge_ca_expiry_days"`
		Method     any `toml:"method"`
		CommonName any `toml:"common_name"`
		Subject    any `toml:"subject"`
		ExpiryDays any `toml:"expiry_days"`
		URL        any `toml:"url"`
		Username   any `toml:"username"`
		Password   any `toml:"password"`
		AutoRenew  any `toml:"auto_renew"`
	} `toml:"edge_ca"`

	Agent struct {
		Env map[string]string `toml:"env"`

		Name   any `toml:"name"`
		Type   any `toml:"type"`
		Pull   any `toml:"imagePullPolicy"`
		Config any `toml:"config"`
	} `toml:"agent"`

	Runtime struct {
		Engine string `toml:"engine"`
	} `toml:"runtime"`

	Broker struct {
		MQTT           string `toml:"mqtt"`
		AMQP           string `toml:"amqp"`
		HTTPS          string `toml:"https"`
		PlainMQTT      string `toml:"plain_mqtt"`
		PlainAMQP      string `toml:"plain_amqp"`
		MaxConnections int    `toml:"max_connections"`
		Window         int    `toml:"window"`
	} `toml:"broker"`

	Store struct {
		MaxBytes size   `toml:"max_bytes"`
		Policy   string `toml:"policy"`
		MaxAge   length `toml:"max_age"`
	} `toml:"store"`

	Upstream struct {
		Protocol string `toml:"protocol"`
		AMQP     string `toml:"amqp"`
		MQTT     string `toml:"mqtt"`
		HTTPS    string `toml:"https"`
	} `toml:"upstream"`

	ParentHostname     any `toml:"parent_hostname"`
	LocalGateway       any `toml:"local_gateway_hostname"`
	ManifestTrust      any `toml:"manifest_trust_bundle_cert"`
	MasterKey          any `toml:"imported_master_encryption_key"`
	ElevatedDocker     any `toml:"allow_elevated_docker_permissions"`
	AutoReprovisioning any `toml:"auto_reprovisioning_mode"`
	PreferCache        any `toml:"prefer_module_identity_cache"`
	CloudTimeout       any `toml:"cloud_timeout_sec"`
	CloudRetries       any `toml:"cloud_retries"`
	AdditionalInfo     any `toml:"additional_info"`
	MaxRequests        any `toml:"aziot_max_requests"`
	EdgeMaxRequests    any `toml:"iotedge_max_requests"`
	CertIssuance       any `toml:"cert_issuance"`
	PreloadedKeys      any `toml:"preloaded_keys"`
	PreloadedCerts     any `toml:"preloaded_certs"`
	Keys               any `toml:"aziot_keys"`
	TPM                any `toml:"tpm"`
	LocalID            any `toml:"localid"`
	Connect            any `toml:"connect"`
	Listen             any `toml:"listen"`
	Watchdog           any `toml:"watchdog"`
	ImageGC            any `toml:"image_garbage_collection"`
	Moby               any `toml:"moby_runtime"`
}

// foreign is a key of the original that does nothing here: either that is harmless,
// or somebody would rely on it in vain, so that it is refused.
type foreign struct {
	key     string
	refused bool
	why     string
}

var foreignKeys = []foreign{
	{"parent_hostname", true, "a gateway below a gateway is not supported yet; remove the key to connect to the hub directly"},
	{"local_gateway_hostname", true, "a gateway below a gateway is not supported yet; remove the key to connect to the hub directly"},
	{"manifest_trust_bundle_cert", true, "signed manifests are not supported; remove the key"},
	{"imported_master_encryption_key", true, "keys of another runtime cannot be taken over; remove the key"},
	{"cert_issuance", true, `certificates from EST or a local CA are not supported yet; remove the table and give files in [edge_ca]`},
	{"aziot_keys", true, "keys in hardware (PKCS#11) are not supported yet; remove the table and use key files"},
	{"edge_ca.method", true, `only files are supported yet: set cert and pk, or remove the table to have an authority made`},
	{"provisioning.global_endpoint", true, `belongs to source = "dps", which is not supported yet; use source = "manual"`},
	{"provisioning.id_scope", true, `belongs to source = "dps", which is not supported yet; use source = "manual"`},
	{"provisioning.payload", true, `belongs to source = "dps", which is not supported yet; use source = "manual"`},
	{"provisioning.attestation", true, `belongs to source = "dps", which is not supported yet; use source = "manual"`},

	{"agent.name", false, ""}, {"agent.type", false, ""}, {"agent.imagePullPolicy", false, ""},
	{"agent.config", false, "the agent is part of this program and no image is run for it"},
	{"edge_ca.common_name", false, ""}, {"edge_ca.subject", false, ""}, {"edge_ca.expiry_days", false, ""},
	{"edge_ca.url", false, ""}, {"edge_ca.username", false, ""}, {"edge_ca.password", false, ""},
	{"edge_ca.auto_renew", false, "certificates are renewed in time anyway"},
	{"edge_ca.auto_generated_edge_ca_expiry_days", false, "the authority that is made lives for 20 years, what it issues is renewed in time"},
	{"allow_elevated_docker_permissions", false, "container engines are not supported yet"},
	{"moby_runtime", false, "container engines are not supported yet"},
	{"image_garbage_collection", false, "container engines are not supported yet"},
	{"auto_reprovisioning_mode", false, ""}, {"prefer_module_identity_cache", false, "identities are always cached"},
	{"cloud_timeout_sec", false, ""}, {"cloud_retries", false, ""}, {"additional_info", false, ""},
	{"aziot_max_requests", false, ""}, {"iotedge_max_requests", false, ""},
	{"preloaded_keys", false, ""}, {"preloaded_certs", false, ""}, {"tpm", false, ""}, {"localid", false, ""},
	{"connect", false, ""}, {"listen", false, ""}, {"watchdog", false, ""},
}

// parse reads a configuration; secret says whether the text itself holds one.
func parse(text []byte, dir string) (cfg Config, secret bool, err error) {
	cfg = Default()
	var d document
	d.Broker.MQTT, d.Broker.AMQP, d.Broker.HTTPS = cfg.Broker.MQTT, cfg.Broker.AMQP, cfg.Broker.HTTPS
	d.Broker.MaxConnections, d.Broker.Window = cfg.Broker.MaxConnections, cfg.Broker.Window
	d.Store.MaxBytes, d.Store.Policy = size(cfg.Store.MaxBytes), "refuse"
	d.Runtime.Engine = "process"

	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Config{}, false, explain(err)
	}
	var errs []error
	for _, f := range foreignKeys {
		switch {
		case !isSet(&d, f.key):
		case f.refused:
			errs = append(errs, fmt.Errorf("%s: %s", f.key, f.why))
		default:
			why := ""
			if f.why != "" {
				why = ": " + f.why
			}
			cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("%s has no effect here%s", f.key, why))
		}
	}
	at := place{dir}
	errs = append(errs, d.general(&cfg, at), d.provision(&cfg.Provisioning, at), d.authority(&cfg.EdgeCA, at), d.broker(&cfg), d.store(&cfg.Store), d.upstream(&cfg.Upstream))
	if err := errors.Join(errs...); err != nil {
		return Config{}, false, err
	}
	return cfg, d.Provisioning.ConnectionString != "" || d.Provisioning.Authentication.Key.Value != "", nil
}

func (d *document) general(cfg *Config, at place) (err error) {
	cfg.Hostname = d.Hostname
	if cfg.Hostname == "" {
		cfg.Hostname = defaultHostname()
	}
	if err := checkHost(cfg.Hostname); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if d.Runtime.Engine != "process" {
		return fmt.Errorf(`runtime.engine: %q is not supported yet, modules run as processes: write engine = "process" or leave it out`, d.Runtime.Engine)
	}
	if d.DataDir != "" {
		cfg.DataDir = at.path(d.DataDir)
	}
	if d.TrustBundle != "" {
		if cfg.TrustBundle, err = at.file("trust_bundle_cert", d.TrustBundle); err != nil {
			return err
		}
	}
	cfg.AgentEnv = d.Agent.Env
	cfg.Ops = d.Ops
	return checkAddress("ops", cfg.Ops, false)
}

func (d *document) provision(p *Provisioning, at place) error {
	in := &d.Provisioning
	switch in.Source {
	case "manual":
	case "":
		return errors.New(`provisioning.source: missing; write  [provisioning]  source = "manual"  and connection_string = "…", as  selvedge device connection-string DEVICE  prints it`)
	case "dps":
		return errors.New(`provisioning.source: "dps" is not supported yet; use "manual" with a connection string`)
	default:
		return fmt.Errorf(`provisioning.source: %q is not known; use "manual"`, in.Source)
	}
	a := &in.Authentication
	if in.ConnectionString != "" {
		if in.Hub != "" || in.Device != "" || a.Method != "" {
			return errors.New("provisioning.connection_string: it says all; remove iothub_hostname, device_id and [provisioning.authentication]")
		}
		return connectionString(p, in.ConnectionString)
	}
	if in.Hub == "" || in.Device == "" {
		return errors.New("provisioning: set connection_string, or iothub_hostname, device_id and [provisioning.authentication]")
	}
	p.Hub, p.Device = in.Hub, in.Device
	if err := checkHub("provisioning.iothub_hostname", p.Hub); err != nil {
		return err
	}
	if err := (ident.ID{Device: p.Device}).Check(); err != nil {
		return fmt.Errorf("provisioning.device_id: %w", err)
	}
	switch a.Method {
	case "sas":
		return d.symmetric(p, at)
	case "x509":
		return d.certificate(p, at)
	case "":
		return errors.New(`provisioning.authentication.method: missing; use "sas" with device_id_pk or "x509" with identity_cert and identity_pk`)
	default:
		return fmt.Errorf(`provisioning.authentication.method: %q is not known; use "sas" or "x509"`, a.Method)
	}
}

func (d *document) symmetric(p *Provisioning, at place) (err error) {
	const key = "provisioning.authentication.device_id_pk"
	pk := d.Provisioning.Authentication.Key
	switch {
	case (pk.Value == "") == (pk.URI == ""):
		return errors.New(key + `: write { value = "KEY IN BASE64" } or { uri = "file:///path/of/key" }`)
	case pk.Value != "":
		p.Key, err = decodeKey(key+".value", pk.Value)
		return err
	}
	path, err := at.file(key+".uri", pk.URI)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s.uri: %w", key, err)
	}
	// The original wants the raw bytes in the file, people put in the text they have.
	if p.Key, err = decodeKey(key+".uri", strings.TrimSpace(string(raw))); err != nil {
		p.Key = raw
	}
	if len(p.Key) == 0 {
		return fmt.Errorf("%s.uri: %s is empty", key, path)
	}
	return nil
}

func (d *document) certificate(p *Provisioning, at place) (err error) {
	const key = "provisioning.authentication."
	a := &d.Provisioning.Authentication
	uri, isText := a.Cert.(string)
	switch {
	case a.Cert == nil || a.PK == "":
		return errors.New(key + `identity_cert, identity_pk: both are needed for method "x509": write "file:///path.pem"`)
	case !isText:
		return errors.New(key + `identity_cert: certificates from EST or a local CA are not supported yet; write "file:///path.pem"`)
	}
	if p.CertFile, err = at.file(key+"identity_cert", uri); err != nil {
		return err
	}
	p.KeyFile, err = at.file(key+"identity_pk", a.PK)
	return err
}

func (d *document) authority(ca *EdgeCA, at place) (err error) {
	in := &d.EdgeCA
	if (in.Cert == "") != (in.PK == "") {
		return errors.New("edge_ca: cert and pk belong together; set both or neither")
	}
	if in.Cert == "" {
		return nil
	}
	if ca.CertFile, err = at.file("edge_ca.cert", in.Cert); err != nil {
		return err
	}
	ca.KeyFile, err = at.file("edge_ca.pk", in.PK)
	return err
}

func (d *document) broker(cfg *Config) error {
	b := &d.Broker
	cfg.Broker = Broker(*b)
	errs := []error{
		checkAddress("broker.mqtt", b.MQTT, false), checkAddress("broker.amqp", b.AMQP, false),
		checkAddress("broker.https", b.HTTPS, false),
		checkAddress("broker.plain_mqtt", b.PlainMQTT, false), checkAddress("broker.plain_amqp", b.PlainAMQP, false),
	}
	if b.MaxConnections < 1 {
		errs = append(errs, errors.New("broker.max_connections: must be at least 1"))
	}
	if b.Window < 1 || b.Window > 65535 {
		errs = append(errs, errors.New("broker.window: must be 1 to 65535"))
	}
	return errors.Join(errs...)
}

func (d *document) upstream(u *Upstream) error {
	*u = Upstream(d.Upstream)
	key := "upstream.protocol"
	if u.Protocol == "" { // the original's setting
		if u.Protocol = original[strings.ToLower(d.Agent.Env["UpstreamProtocol"])]; u.Protocol != "" {
			key = "agent.env.UpstreamProtocol"
		}
	}
	_, err := u.protocols()
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return errors.Join(err, checkAddress("upstream.amqp", u.AMQP, true),
		checkAddress("upstream.mqtt", u.MQTT, true), checkAddress("upstream.https", u.HTTPS, true))
}

// original are the protocols as the original names them, in lower case.
var original = map[string]string{"amqp": "amqp", "amqpws": "amqp-ws", "mqtt": "mqtt", "mqttws": "mqtt-ws"}

func (d *document) store(s *Store) error {
	s.MaxBytes, s.MaxAge = int64(d.Store.MaxBytes), time.Duration(d.Store.MaxAge)
	if s.MaxBytes < 1<<20 {
		return errors.New(`store.max_bytes: must be at least "1MiB"`)
	}
	switch d.Store.Policy {
	case "refuse":
		s.Policy = queue.Refuse
	case "drop-oldest":
		s.Policy = queue.DropOldest
	default:
		return fmt.Errorf(`store.policy: %q is not known; use "refuse" or "drop-oldest"`, d.Store.Policy)
	}
	return nil
}
