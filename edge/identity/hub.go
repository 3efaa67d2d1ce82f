package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

const (
	apiVersion  = "2017-11-08-preview" // what edge devices ask for (service-protocol 4.8)
	callTimeout = 30 * time.Second
	dialTimeout = 10 * time.Second
	tokenLife   = 5 * time.Minute // hubs allow for clocks that differ by that much
	maxAnswer   = 4 << 20         // bytes
	maxSaid     = 300             // bytes of an answer that go into an error
)

// hub makes the registry calls that a device may make for its own modules.
type hub struct {
	base   string // https://SERVER/devices/DEVICE/modules
	device string
	token  func(now time.Time) string
	client *http.Client
	pace   pace
	up     atomic.Bool
}

func newHub(cfg Config) *hub {
	server := cmp.Or(cfg.Gateway, cfg.Host)
	dialer := &net.Dialer{Timeout: dialTimeout}
	h := &hub{device: cfg.Device, base: "https://" + server + "/devices/" + url.PathEscape(cfg.Device) + "/modules", pace: newPace()}
	transport := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: cfg.Roots, Certificates: cfg.Certificates, MinVersion: tls.VersionTLS12,
			ServerName: server},
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: parallel,
		IdleConnTimeout:     30 * time.Second,
	}
	if cfg.Address != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, cfg.Address)
		}
	}
	h.client = &http.Client{
		Transport: transport,
		Timeout:   callTimeout,
		// A redirection would take the token to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if len(cfg.Key) > 0 {
		resource := cfg.Host + "/" + ident.ID{Device: cfg.Device}.Resource()
		h.token = func(now time.Time) string { return sas.Sign(resource, cfg.Key, now.Add(tokenLife), "") }
	}
	return h
}

// answers says whether the hub answered the last call.
func (h *hub) answers() bool { return h.up.Load() }

// document is a module in the registry (service-protocol 4.3).
type document struct {
	Module         string  `json:"moduleId"`
	ManagedBy      *string `json:"managedBy"`
	Device         string  `json:"deviceId"`
	Generation     string  `json:"generationId,omitempty"`
	Authentication struct {
		Type         string `json:"type"`
		SymmetricKey struct {
			Primary   *string `json:"primaryKey"`
			Secondary *string `json:"secondaryKey"`
		} `json:"symmetricKey"`
		Thumbprint struct {
			Primary   *string `json:"primaryThumbprint"`
			Secondary *string `json:"secondaryThumbprint"`
		} `json:"x509Thumbprint"`
	} `json:"authentication"`
}

func (h *hub) modules(ctx context.Context) ([]document, error) {
	var list []document
	if err := h.call(ctx, http.MethodGet, "", nil, &list); err != nil {
		return nil, err
	}
	// What is not in the list is forgotten, so it must not be just anything: each edge
	// device has its system modules.
	system := false
	for _, m := range list {
		if err := h.check(m, m.Module); err != nil {
			return nil, err
		}
		system = system || isSystem(m.Module)
	}
	if !system {
		return nil, fault.New(fault.BadGateway, "the hub lists no system modules for device %q: is it registered as an edge device?", h.device)
	}
	return list, nil
}

// check says whether a document may be about a module of this device.
func (h *hub) check(m document, name string) error {
	if m.Module == "" || !strings.EqualFold(m.Module, name) || !strings.EqualFold(m.Device, h.device) {
		return fault.New(fault.BadGateway, "the hub's answer is about module %.128q of device %.128q, not about one of device %q", m.Module, m.Device, h.device)
	}
	return nil
}

func (h *hub) module(ctx context.Context, name string) (document, error) {
	var m document
	err := h.call(ctx, http.MethodGet, name, nil, &m)
	if err == nil {
		err = h.check(m, name)
	}
	return m, err
}

// putModule creates a module or, with update, changes the keys of one.
func (h *hub) putModule(ctx context.Context, name string, keys [2]string, update bool) (document, error) {
	type pair struct {
		Primary   string `json:"primaryKey"`
		Secondary string `json:"secondaryKey"`
	}
	type authentication struct {
		Type string `json:"type"`
		Keys pair   `json:"symmetricKey"`
	}
	put := struct {
		Module         string         `json:"moduleId"`
		Device         string         `json:"deviceId"`
		ManagedBy      string         `json:"managedBy,omitempty"`
		Authentication authentication `json:"authentication"`
	}{Module: name, Device: h.device, Authentication: authentication{"sas", pair{keys[0], keys[1]}}}
	if !update || isSystem(name) {
		put.ManagedBy = managedByEdge // whose it was stays whose it was
	}
	var header []string
	if update {
		header = anyVersion
	}
	var m document
	err := h.call(ctx, http.MethodPut, name, put, &m, header...)
	if err == nil {
		err = h.check(m, name)
	}
	return m, err
}

func (h *hub) deleteModule(ctx context.Context, name string) error {
	return h.call(ctx, http.MethodDelete, name, nil, nil, anyVersion...)
}

var anyVersion = []string{"If-Match", "*"}

// call makes one call. Its errors are faults: temporary ones when the hub was not
// reached or has trouble of its own.
func (h *hub) call(ctx context.Context, method, module string, body, into any, header ...string) error {
	target := h.base
	if module != "" {
		target += "/" + url.PathEscape(module)
	}
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return fmt.Errorf("write call to the hub: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, target+"?api-version="+apiVersion, bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("write call to the hub: %w", err)
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if err := h.pace.wait(ctx); err != nil {
		return fault.Wrap(err, fault.Unavailable, "the call to the hub had to wait too long")
	}
	if h.token != nil {
		req.Header.Set("Authorization", h.token(time.Now()))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.up.Store(false)
		return fault.Wrap(err, fault.Unavailable, "the hub cannot be reached")
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		h.up.Store(false)
		return fault.Wrap(err, fault.Unavailable, "the hub's answer broke off")
	}
	h.up.Store(resp.StatusCode < 500)
	if resp.StatusCode >= 300 {
		return refusal(resp.StatusCode, resp.Header.Get("iothub-errorcode"), raw, module)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fault.Wrap(err, fault.BadGateway, "the hub's answer is not what was asked for")
	}
	return nil
}

// refusal makes a fault of an answer that is no success.
func refusal(status int, name string, body []byte, module string) error {
	var said struct {
		Message      string
		ErrorMessage string `json:"errorMessage"` // a parent device's
		NetworkError bool   `json:"networkError"` // it has no link itself
	}
	text := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &said) == nil {
		text = cmp.Or(said.Message, said.ErrorMessage, text)
	}
	if head, rest, ok := strings.Cut(text, ";"); ok && strings.HasPrefix(head, "ErrorCode:") {
		name = cmp.Or(name, strings.TrimPrefix(head, "ErrorCode:"))
		text = strings.TrimSpace(rest)
	}
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	code := statusCode(status, module)
	for _, c := range []fault.Code{fault.DeviceNotFound, fault.ModuleNotFound, fault.ModuleAlreadyExists, fault.TooManyModules,
		fault.DeviceDisabled, fault.QuotaExceeded, fault.SystemModuleModify} {
		if c.Name() == name && c.Status() == status {
			code = c
		}
	}
	if said.NetworkError {
		code = fault.Unavailable
	}
	return fault.New(code, "the hub answers %d: %s", status, text)
}

// statusCode is the fault for a status when no name says more.
func statusCode(status int, module string) fault.Code {
	switch {
	case status == http.StatusUnauthorized:
		return fault.Unauthorized
	case status == http.StatusForbidden:
		return fault.GenericForbidden
	case status == http.StatusNotFound && module != "":
		return fault.ModuleNotFound
	case status == http.StatusNotFound:
		return fault.DeviceNotFound
	case status == http.StatusConflict:
		return fault.ModuleAlreadyExists
	case status == http.StatusPreconditionFailed:
		return fault.PreconditionFailed
	case status == http.StatusRequestEntityTooLarge:
		return fault.TooManyModules
	case status == http.StatusTooManyRequests:
		return fault.Throttled
	case status == http.StatusRequestTimeout, status >= 500:
		return fault.Unavailable
	default:
		return fault.ArgumentInvalid
	}
}
