package rig

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// Identity is who an MQTT client is and where it connects to.
type Identity struct {
	Host   string // of the hub, in user name and token
	Device string
	Module string // empty: the device itself
	Key    string // base64; empty: no password

	Address  string            // host:port to dial
	CA       string            // file with the root to trust; empty: any certificate will do
	From     string            // loopback address to dial from; empty: any
	Plain    bool              // without TLS
	Cert     *tls.Certificate  // client certificate, or nil
	Password string            // instead of a token made with Key
	Keep     bool              // keep the session: clean session 0
	Will     map[string]string // topic and payload of a will; nil: none
}

// ParseIdentity reads a connection string. It does so on its own, so that the tests
// hold the program to Azure's format and not to its own idea of it.
func ParseIdentity(t testing.TB, connectionString string) Identity {
	t.Helper()
	var id Identity
	for part := range strings.SplitSeq(strings.TrimSpace(connectionString), ";") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "HostName":
			id.Host = value
		case "DeviceId":
			id.Device = value
		case "ModuleId":
			id.Module = value
		case "SharedAccessKey":
			id.Key = value
		case "x509":
		default:
			t.Fatalf("connection string has an unknown part %q", name)
		}
	}
	return id
}

// Name is the device id, or the device id and the module id with a slash between.
func (id Identity) Name() string {
	if id.Module == "" {
		return id.Device
	}
	return id.Device + "/" + id.Module
}

// Path is the identity's part of topics and audiences.
func (id Identity) Path() string {
	if id.Module == "" {
		return "devices/" + id.Device
	}
	return "devices/" + id.Device + "/modules/" + id.Module
}

// User is the MQTT user name.
func (id Identity) User() string { return id.Host + "/" + id.Name() + "/?api-version=2021-04-12" }

// Token is a shared access signature that ends at expiry.
func (id Identity) Token(expiry time.Time) string {
	key, err := base64.StdEncoding.DecodeString(id.Key)
	if err != nil {
		panic("the key is not base64: " + err.Error())
	}
	resource := url.QueryEscape(id.Host + "/" + id.Path())
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s\n%d", resource, expiry.Unix())
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d", resource,
		url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), expiry.Unix())
}

func (id Identity) tls() (*tls.Config, error) {
	cfg := &tls.Config{ServerName: id.Host, InsecureSkipVerify: id.CA == "", MinVersion: tls.VersionTLS12}
	if id.Cert != nil {
		cfg.Certificates = []tls.Certificate{*id.Cert}
	}
	if id.CA != "" {
		pem, err := os.ReadFile(id.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM(pem)
	}
	return cfg, nil
}
