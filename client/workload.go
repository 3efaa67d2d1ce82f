package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	workloadVersion = "2018-06-28" // what all SDKs ask for (edge-runtime 3.2.6)
	maxAnswer       = 1 << 20      // bytes of an answer of the workload API
)

// workload is the API that an edge runtime has for its modules (edge-runtime 3.2).
type workload struct {
	base   string // URL without a slash at the end
	module string // path of the module
	http   *http.Client
}

// newWorkload makes a client of the API at a unix:// or http:// address.
func newWorkload(uri, module, generation string) (*workload, error) {
	w := &workload{
		base:   strings.TrimSuffix(uri, "/"),
		module: "/modules/" + url.PathEscape(module) + "/genid/" + url.PathEscape(generation),
	}
	// Connections are rare, so none is kept.
	transport := &http.Transport{DisableKeepAlives: true}
	w.http = &http.Client{Transport: transport, Timeout: dialTimeout}
	switch path, isUnix := strings.CutPrefix(uri, "unix://"); {
	case isUnix && path != "":
		w.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
	case isUnix, !strings.HasPrefix(uri, "http://"):
		return nil, fmt.Errorf("IOTEDGE_WORKLOADURI is %q, must be unix://PATH or http://HOST:PORT", uri)
	}
	return w, nil
}

// call sends a request and reads the answer, which is JSON, into out.
func (w *workload) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.base+path+"?api-version="+workloadVersion, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(answer) > maxAnswer:
		return fmt.Errorf("answer has more than %d bytes", maxAnswer)
	case resp.StatusCode/100 != 2:
		var problem struct{ Message string }
		_ = json.Unmarshal(answer, &problem) // the status alone will do
		return fmt.Errorf("status %d %s", resp.StatusCode, problem.Message)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// token implements Credentials: the runtime signs with the module's key.
func (w *workload) token(ctx context.Context, resource string, expiry time.Time) (string, error) {
	sr, se := url.QueryEscape(resource), strconv.FormatInt(expiry.Unix(), 10)
	request := map[string]string{
		"keyId": "primary", "algo": "HMACSHA256",
		"data": base64.StdEncoding.EncodeToString([]byte(sr + "\n" + se)),
	}
	var answer struct{ Digest string }
	if err := w.call(ctx, http.MethodPost, w.module+"/sign", request, &answer); err != nil {
		return "", fmt.Errorf("have the workload API sign: %w", err)
	}
	if _, err := base64.StdEncoding.DecodeString(answer.Digest); err != nil || answer.Digest == "" {
		return "", errors.New("have the workload API sign: the digest in its answer is not base64")
	}
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(answer.Digest) + "&se=" + se, nil
}

// roots are those of the runtime's trust bundle.
func (w *workload) roots(ctx context.Context) (*x509.CertPool, error) {
	var answer struct{ Certificate string }
	if err := w.call(ctx, http.MethodGet, "/trust-bundle", nil, &answer); err != nil {
		return nil, fmt.Errorf("get trust bundle from the workload API: %w", err)
	}
	pool, err := poolOf([]byte(answer.Certificate))
	if err != nil {
		return nil, fmt.Errorf("trust bundle of the workload API: %w", err)
	}
	return pool, nil
}
