package workload

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/cert"
)

// versions of the API that there were; they all have the same routes (edge-runtime
// 3.2). 2020-10-10 was the management API's only, and is asked for here by mistake.
var versions = map[string]bool{
	"2018-06-28": true, "2019-01-30": true, "2019-10-22": true, "2019-11-05": true, "2020-07-07": true,
	"2020-10-10": true, "2021-12-07": true, "2022-08-03": true,
}

// certificateLife is how long certificates hold when nothing else is asked for.
const certificateLife = 30 * 24 * time.Hour

// failure is an answer that is no success.
type failure struct {
	status int
	text   string
}

func (f failure) Error() string { return f.text }

var (
	errForbidden = failure{http.StatusForbidden, "forbidden"}
	errNotFound  = failure{http.StatusNotFound, "not found"}
)

func failed(status int, text string) answer {
	body, err := json.Marshal(struct {
		Message string `json:"message"`
	}{text})
	if err != nil {
		return answer{status: status}
	}
	return answer{status, body}
}

// answer does what a request asks for.
func (k *socket) answer(ctx context.Context, req *http.Request, body []byte) answer {
	status, result, err := k.route(ctx, req, body)
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(result); err == nil {
			return answer{status, raw}
		}
	}
	if f, ok := errors.AsType[failure](err); ok {
		return failed(f.status, f.text)
	}
	k.server.log.Warn("call of a module failed", "module", k.module, "method", req.Method, "path", req.URL.Path, "err", err)
	if code := fault.CodeOf(err); code.Status() == http.StatusNotFound {
		return failed(http.StatusNotFound, fault.TextOf(err))
	}
	return failed(http.StatusInternalServerError, fault.TextOf(err))
}

func (k *socket) route(ctx context.Context, req *http.Request, body []byte) (status int, result any, err error) {
	path, err := segments(req.URL)
	if err != nil {
		return 0, nil, err
	}
	version := req.URL.Query().Get("api-version")
	method, do, err := k.find(path)
	switch {
	case err != nil:
		return 0, nil, err
	case version == "":
		return 0, nil, failure{http.StatusBadRequest, "api-version not specified"}
	case !versions[version]:
		return 0, nil, failure{http.StatusBadRequest, "api-version not known"}
	case method != req.Method:
		return 0, nil, failure{http.StatusBadRequest, "method not possible here"}
	}
	if len(path) > 1 && path[1] != k.module || len(path) > 3 && path[2] == "genid" && !k.hasGeneration(path[3]) {
		return 0, nil, errForbidden
	}
	return do(ctx, path, body)
}

// action does one kind of call. The path is that of this module.
type action func(ctx context.Context, path []string, body []byte) (status int, result any, err error)

// find tells calls apart.
func (k *socket) find(path []string) (method string, do action, err error) {
	form := make([]string, len(path))
	for i, s := range path {
		if form[i] = s; i == 1 || i == 3 && path[2] == "genid" {
			form[i] = "*"
		}
	}
	switch strings.Join(form, "/") {
	case "trust-bundle":
		return http.MethodGet, k.trustBundle, nil
	case "manifest-trust-bundle":
		return http.MethodGet, k.noBundle, nil
	case "modules/*/genid/*/sign":
		return http.MethodPost, k.sign, nil
	case "modules/*/genid/*/encrypt":
		return http.MethodPost, k.encrypt, nil
	case "modules/*/genid/*/decrypt":
		return http.MethodPost, k.decrypt, nil
	case "modules/*/genid/*/certificate/server":
		return http.MethodPost, k.serverCertificate, nil
	case "modules/*/certificate/identity":
		return http.MethodPost, k.identityCertificate, nil
	}
	return "", nil, errNotFound
}

// segments of a path, decoded. Empty ones do not count.
func segments(u *url.URL) ([]string, error) {
	var path []string
	for s := range strings.SplitSeq(u.EscapedPath(), "/") {
		if s == "" {
			continue
		}
		plain, err := url.PathUnescape(s)
		if err != nil || strings.Contains(plain, "/") {
			return nil, errNotFound
		}
		path = append(path, plain)
	}
	return path, nil
}

// decode reads the body; what is not JSON of the right kind is refused as the original
// refuses it.
func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return failure{http.StatusUnprocessableEntity, "the body is not the JSON that is wanted here"}
	}
	return nil
}

type bundle struct {
	Certificate string `json:"certificate"`
}

func (k *socket) trustBundle(context.Context, []string, []byte) (int, any, error) {
	pem, err := k.server.cfg.TrustBundle()
	if err != nil {
		return 0, nil, err
	}
	if len(pem) == 0 {
		return 0, nil, errNotFound
	}
	return http.StatusOK, bundle{string(pem)}, nil
}

// noBundle says that nobody vouches for manifests.
func (k *socket) noBundle(context.Context, []string, []byte) (int, any, error) {
	return http.StatusOK, bundle{}, nil
}

func (k *socket) sign(ctx context.Context, _ []string, body []byte) (int, any, error) {
	var in struct { // keyId and algo mean nothing (edge-runtime 3.2.1)
		Data *string `json:"data"`
	}
	if err := decode(body, &in); err != nil {
		return 0, nil, err
	}
	data, err := unbase64("data", in.Data)
	if err != nil {
		return 0, nil, err
	}
	digest, err := k.server.cfg.Signer.Sign(ctx, k.module, data)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, struct {
		Digest []byte `json:"digest"`
	}{digest}, nil
}

// certificate is what both kinds of calls for one are answered with.
type certificate struct {
	PrivateKey struct {
		Type  string `json:"type"`
		Bytes string `json:"bytes"`
	} `json:"privateKey"`
	Certificate string `json:"certificate"`
	Expiration  string `json:"expiration"`
}

func (k *socket) serverCertificate(ctx context.Context, _ []string, body []byte) (int, any, error) {
	var in struct {
		CommonName *string `json:"commonName"`
		Expiration string  `json:"expiration"`
	}
	if err := decode(body, &in); err != nil {
		return 0, nil, err
	}
	if in.CommonName == nil {
		return 0, nil, failure{http.StatusUnprocessableEntity, "commonName is missing"}
	}
	if net.ParseIP(*in.CommonName) == nil && !isHost(*in.CommonName) {
		return 0, nil, failure{http.StatusBadRequest, "commonName is neither a host name nor an address"}
	}
	life, err := lifetime(in.Expiration)
	if err != nil {
		return 0, nil, err
	}
	r := cert.Request{CommonName: *in.CommonName, Hosts: []string{*in.CommonName}, Usage: cert.ForServer, Lifetime: life, RSA: true}
	if name := strings.TrimPrefix(k.module, "$"); isHost(name) {
		r.Hosts = append(r.Hosts, name)
	}
	return k.issue(ctx, r)
}

func (k *socket) identityCertificate(ctx context.Context, _ []string, body []byte) (int, any, error) {
	var in struct {
		Expiration string `json:"expiration"`
	}
	if len(body) > 0 {
		if err := decode(body, &in); err != nil {
			return 0, nil, err
		}
	}
	life, err := lifetime(in.Expiration)
	if err != nil {
		return 0, nil, err
	}
	id := ident.ID{Device: k.server.cfg.Device, Module: k.module}
	name := &url.URL{Scheme: "azureiot", Host: k.server.cfg.Hub, Path: "/" + id.Resource()}
	return k.issue(ctx, cert.Request{CommonName: k.module, URIs: []*url.URL{name}, Usage: cert.ForClient, Lifetime: life, RSA: true})
}

// issue makes a certificate with a new key, one at a time: keys of RSA are dear.
func (k *socket) issue(ctx context.Context, r cert.Request) (int, any, error) {
	select {
	case k.server.issuing <- struct{}{}:
		defer func() { <-k.server.issuing }()
	case <-ctx.Done():
		return 0, nil, fault.Wrap(context.Cause(ctx), fault.ServerBusy, "too many certificates are asked for")
	}
	leaf, err := k.server.cfg.Issuer.Issue(r)
	if err != nil {
		return 0, nil, err
	}
	key, err := leaf.KeyPEM()
	if err != nil {
		return 0, nil, err
	}
	var c certificate
	c.PrivateKey.Type, c.PrivateKey.Bytes = "key", string(key)
	c.Certificate = string(leaf.CertificatePEM())
	c.Expiration = leaf.Certificate.NotAfter.UTC().Format("2006-01-02T15:04:05-07:00")
	k.server.log.Info("module has a certificate", "module", k.module, "name", r.CommonName, "until", c.Expiration)
	return http.StatusCreated, c, nil
}

// lifetime is how long a certificate is to hold that is to end at an RFC 3339 time. The
// authority sees to it that it does not outlive it.
func lifetime(expiration string) (time.Duration, error) {
	if expiration == "" {
		return certificateLife, nil
	}
	end, err := time.Parse(time.RFC3339, expiration)
	if err != nil {
		return 0, failure{http.StatusBadRequest, "expiration is not an RFC 3339 time"}
	}
	life := time.Until(end)
	if life <= 0 {
		return 0, failure{http.StatusBadRequest, "expiration is in the past"}
	}
	return life, nil
}

// isHost says whether s may stand as a DNS name in a certificate.
func isHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
