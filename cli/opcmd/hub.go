package opcmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/trust/sas"
)

const apiVersion = "2021-04-12"

// Target says which hub the commands talk to.
type Target struct {
	ConnectionString string
	Address          string // host:port to dial instead of HostName:443; may be empty
	RootPEM          []byte // trusted beside the system's roots; may be empty
}

// hub calls the service REST API of one hub.
type hub struct {
	host   string
	policy string
	key    []byte
	http   *http.Client
	base   string
}

func dialHub(t Target) (*hub, error) {
	host, address := splitPort(t.ConnectionString)
	if t.Address != "" {
		address = t.Address
	}
	cs, err := sas.ParseConnectionString(host)
	if err != nil {
		return nil, fmt.Errorf("read hub connection string: %w", err)
	}
	if cs.SharedAccessKeyName == "" {
		return nil, fmt.Errorf("the hub connection string names no policy (SharedAccessKeyName); " +
			"print one with: selvedge hub connection-string")
	}
	key, err := base64.StdEncoding.DecodeString(cs.SharedAccessKey)
	if err != nil {
		return nil, fmt.Errorf("read hub connection string: SharedAccessKey is not base64")
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(t.RootPEM)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, ServerName: cs.HostName},
		IdleConnTimeout: time.Minute,
	}
	if address != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}
	}
	return &hub{host: cs.HostName, policy: cs.SharedAccessKeyName, key: key,
		http: &http.Client{Transport: transport}, base: "https://" + cs.HostName}, nil
}

// splitPort takes a port out of HostName. Azure's tools know no port there; ours
// do, for hubs on unprivileged ports.
func splitPort(cs string) (plain, address string) {
	parts := strings.Split(cs, ";")
	for i, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		if !strings.EqualFold(name, "HostName") {
			continue
		}
		if host, _, err := net.SplitHostPort(value); err == nil {
			parts[i], address = name+"="+host, value
		}
	}
	return strings.Join(parts, ";"), address
}

// request is one call. Body may be nil.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	header http.Header
	body   []byte
}

// send makes the call and gives the open response; a refusal is an error.
func (h *hub) send(ctx context.Context, r request) (*http.Response, error) {
	q := url.Values{"api-version": {apiVersion}}
	for k, v := range r.query {
		q[k] = v
	}
	req, err := http.NewRequestWithContext(ctx, r.method, h.base+r.path+"?"+q.Encode(), bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", r.path, err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", sas.Sign(h.host, h.key, time.Now().Add(time.Hour), h.policy))
	if len(r.body) > 0 && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, reach(h.host, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return nil, refusal(resp, text)
}

// call makes a call and reads the whole answer.
func (h *hub) call(ctx context.Context, r request) ([]byte, error) {
	resp, err := h.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the hub's answer: %w", err)
	}
	return body, nil
}

// reach says in one line why the hub could not be reached and what to try.
func reach(host string, err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("the certificate of %s is not trusted: pass the hub's root with --ca FILE "+
			"(print it with: selvedge hub ca)", host)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if os.IsTimeout(err) {
		return fmt.Errorf("no answer from hub %s in time (--timeout): %w", host, err)
	}
	return fmt.Errorf("reach hub %s: %w; is it running, and is --hub right?", host, err)
}

// refusal turns either shape of the hub's error body into one line.
func refusal(resp *http.Response, body []byte) error {
	var outer struct{ Message string }
	text := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &outer) == nil && outer.Message != "" {
		text = outer.Message
		var inner struct {
			Message string `json:"message"`
		}
		if json.Unmarshal([]byte(outer.Message), &inner) == nil && inner.Message != "" {
			text = inner.Message
		} else if rest, ok := strings.CutPrefix(text, "ErrorCode:"); ok {
			_, text, _ = strings.Cut(rest, ";")
		}
	}
	name := resp.Header.Get("iothub-errorcode")
	if name == "" {
		name = resp.Status
	}
	return refused(text, name)
}

// refused is the error for a refusal, by the name of its code.
func refused(text, name string) error {
	return fmt.Errorf("the hub refused: %s (%s)%s", strings.TrimSpace(text), name, advice(name))
}

func advice(name string) string {
	switch name {
	case "DeviceNotFound":
		return "; list devices with: selvedge device list"
	case "ModuleNotFound":
		return "; list modules with: selvedge module list DEVICE"
	case "DeviceNotOnline":
		return "; it must be connected and listening for methods"
	case "IotHubUnauthorizedAccess", "IotHubUnauthorized", "GenericUnauthorized":
		return "; the policy in --hub lacks the right, or its key has changed"
	case "DeviceAlreadyExists", "ModuleAlreadyExistsOnDevice":
		return "; show it with the show command, or delete it first"
	}
	return ""
}
