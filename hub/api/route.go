package api

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// route is one call: what it matches, what it needs, who does it.
type route struct {
	method string
	path   string     // literal segments in any case; {d} and {m} are ids
	need   auth.Right // right of the policy
	or     auth.Right // a right that also will do; zero: none
	device bool       // an edge device may make it for its own modules (service-protocol 4.8)
	nested bool       // errors have shape 2 (service-protocol 3.4)
	body   int64      // largest body; zero: it has none
	do     func(c *call) error
}

// call is one request under way.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	id    ident.ID
	query url.Values
	body  []byte
	by    string // policy, or the device that called for itself
	own   bool   // by is the device itself
}

// ServeHTTP finds the route, then checks in the order that clients rely on:
// api-version before credentials (device-protocol 7.1), credentials before all else.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("x-ms-request-id", uuid.NewString())
	c := &call{w: w, r: r, query: r.URL.Query()}
	rt, err := a.find(c)
	if err == nil {
		err = a.serve(c, rt)
	}
	if err != nil {
		a.refuse(c, rt, err)
	}
}

func (a *api) serve(c *call, rt *route) error {
	if err := checkVersion(c.query.Get("api-version")); err != nil {
		return err
	}
	if err := a.authorize(c, rt); err != nil {
		return err
	}
	if !c.id.IsZero() {
		if err := c.id.Check(); err != nil {
			return err
		}
	}
	if rt.body > 0 {
		body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, rt.body))
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return fault.New(fault.MessageTooLarge, "the body has more than %d bytes", rt.body)
		}
		if err != nil {
			return fault.Wrap(err, fault.ArgumentInvalid, "the body could not be read")
		}
		c.body = body
	}
	return rt.do(c)
}

// find matches method and path. Ids are percent-decoded once; empty segments do
// not count, so that doubled and trailing slashes do no harm.
func (a *api) find(c *call) (*route, error) {
	var segments []string
	for s := range strings.SplitSeq(c.r.URL.EscapedPath(), "/") {
		if s == "" {
			continue
		}
		plain, err := url.PathUnescape(s)
		if err != nil {
			return nil, fault.New(fault.ArgumentInvalid, "the path is not percent-encoded correctly")
		}
		segments = append(segments, plain)
	}
	known := false
	for i := range a.routes {
		id, ok := a.routes[i].match(segments)
		if !ok {
			continue
		}
		known = true
		if a.routes[i].method == c.r.Method {
			c.id = id
			return &a.routes[i], nil
		}
	}
	if known {
		return nil, fault.New(fault.MethodNotAllowed, "%s is not possible here", c.r.Method)
	}
	return nil, fault.New(fault.GenericNotFound, "there is nothing at this path")
}

func (rt *route) match(segments []string) (id ident.ID, ok bool) {
	n := 0
	for want := range strings.SplitSeq(rt.path, "/") {
		if n == len(segments) {
			return id, false
		}
		switch got := segments[n]; {
		case want == "{d}":
			id.Device = got
		case want == "{m}":
			id.Module = got
		case !strings.EqualFold(want, got):
			return id, false
		}
		n++
	}
	return id, n == len(segments)
}

// checkVersion wants a dated version and takes every date as the newest we know.
func checkVersion(v string) error {
	date, _, _ := strings.Cut(v, "T")
	if len(date) < len("2006-01-02") {
		return fault.New(fault.InvalidProtocolVersion, "the query parameter api-version is missing or is not a date such as 2021-04-12")
	}
	for i, form := range []byte("dddd-dd-dd") {
		if isDigit := date[i] >= '0' && date[i] <= '9'; isDigit != (form == 'd') || form == '-' && date[i] != '-' {
			return fault.New(fault.InvalidProtocolVersion, "api-version %q is not a date such as 2021-04-12", v)
		}
	}
	return nil
}

// authorize judges the caller: a policy, or an edge device for its own modules.
func (a *api) authorize(c *call, rt *route) error {
	authorization := c.r.Header.Get("Authorization")
	if rt.device && !c.id.IsZero() {
		device := ident.ID{Device: c.id.Device}
		switch {
		case authorization == "" && c.r.TLS != nil && len(c.r.TLS.PeerCertificates) > 0:
			_, err := a.Auth.Device(c.r.Context(), &ident.Claim{ID: device, Host: c.r.Host,
				Certificates: c.r.TLS.PeerCertificates, Remote: c.r.RemoteAddr})
			return a.asDevice(c, device, err)
		case authorization != "" && !namesPolicy(authorization):
			return a.asDevice(c, device, a.Auth.DeviceToken(c.r.Context(), authorization, device))
		}
	}
	if authorization == "" {
		return fault.New(fault.GenericUnauthorized, "the Authorization header is missing")
	}
	resource := strings.Trim(c.r.URL.Path, "/")
	by, err := a.Auth.Service(c.r.Context(), authorization, resource, rt.need)
	if err != nil && rt.or != 0 {
		by, err = a.Auth.Service(c.r.Context(), authorization, resource, rt.or)
	}
	c.by = by
	return err
}

// namesPolicy says whether a token is one of a policy: it has a non-empty skn.
func namesPolicy(authorization string) bool {
	_, fields, _ := strings.Cut(authorization, " ")
	for field := range strings.SplitSeq(fields, "&") {
		if policy, ok := strings.CutPrefix(strings.TrimSpace(field), "skn="); ok && policy != "" {
			return true
		}
	}
	return false
}

func (a *api) asDevice(c *call, device ident.ID, err error) error {
	if err != nil {
		return err
	}
	i, err := a.Registry.Get(c.r.Context(), device)
	if err != nil {
		return err
	}
	if !i.Edge {
		return fault.New(fault.UnauthorizedAccess, "only edge devices may manage their modules")
	}
	c.by, c.own = "device "+device.Device, true
	return nil
}

// audit logs a change that was made.
func (a *api) audit(c *call, what string, args ...any) {
	args = append([]any{"change", what, "by", c.by, "device", c.id.Device, "remote", c.r.RemoteAddr}, args...)
	if c.id.IsModule() {
		args = append(args, "module", c.id.Module)
	}
	a.Log.InfoContext(c.r.Context(), "audit", args...)
}
