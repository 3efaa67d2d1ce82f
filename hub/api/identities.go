package api

import (
	"strconv"
	"strings"

	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// identityBody is what we read of a device or module document; absent and null
// members are nil. Read-only members that clients echo are ignored.
type identityBody struct {
	DeviceID       *string             `json:"deviceId"`
	ModuleID       *string             `json:"moduleId"`
	Status         *string             `json:"status"`
	StatusReason   *string             `json:"statusReason"`
	ManagedBy      *string             `json:"managedBy"`
	Authentication *authenticationBody `json:"authentication"`
	Capabilities   *struct {
		IotEdge *bool `json:"iotEdge"`
	} `json:"capabilities"`
	DeviceScope  *string   `json:"deviceScope"`
	ParentScopes *[]string `json:"parentScopes"`
}

type authenticationBody struct {
	Type         *string `json:"type"`
	SymmetricKey *struct {
		Primary   *string `json:"primaryKey"`
		Secondary *string `json:"secondaryKey"`
	} `json:"symmetricKey"`
	Thumbprint *struct {
		Primary   *string `json:"primaryThumbprint"`
		Secondary *string `json:"secondaryThumbprint"`
	} `json:"x509Thumbprint"`
}

// x509 is what the edge daemon calls both kinds of certificates.
const x509 = "x509"

func (b *authenticationBody) authentication() *registry.Authentication {
	if b == nil {
		return nil
	}
	a := &registry.Authentication{Type: value(b.Type)}
	if a.Type == x509 {
		a.Type = registry.SelfSigned
	}
	if k := b.SymmetricKey; k != nil {
		a.Keys = [2]string{value(k.Primary), value(k.Secondary)}
	}
	if t := b.Thumbprint; t != nil {
		a.Thumbprints = [2]string{value(t.Primary), value(t.Secondary)}
	}
	return a
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// spec checks the body against the path and gives what it asks for.
func (b *identityBody) spec(id ident.ID) (registry.Spec, error) {
	s := registry.Spec{ID: id, StatusReason: b.StatusReason, Auth: b.Authentication.authentication(),
		Scope: b.DeviceScope, ParentScopes: b.ParentScopes, ManagedBy: b.ManagedBy}
	if b.DeviceID != nil && *b.DeviceID != id.Device || b.ModuleID != nil && *b.ModuleID != "" && *b.ModuleID != id.Module {
		return s, fault.New(fault.ArgumentInvalid, "the ids in the body are not those in the path")
	}
	if b.Status != nil && !id.IsModule() {
		enabled := strings.EqualFold(*b.Status, "enabled")
		if !enabled && !strings.EqualFold(*b.Status, "disabled") {
			return s, fault.New(fault.ArgumentInvalid, "status %q is neither enabled nor disabled", *b.Status)
		}
		s.Enabled = &enabled
	}
	if b.Capabilities != nil {
		s.Edge = b.Capabilities.IotEdge
	}
	return s, nil
}

// Documents as services read them (service-protocol 4.2 and 4.3).
type (
	deviceDocument struct {
		DeviceID              string                 `json:"deviceId"`
		Generation            string                 `json:"generationId"`
		Etag                  string                 `json:"etag"`
		ConnectionState       string                 `json:"connectionState"`
		Status                string                 `json:"status"`
		StatusReason          *string                `json:"statusReason"`
		ConnectionUpdatedTime string                 `json:"connectionStateUpdatedTime"`
		StatusUpdatedTime     string                 `json:"statusUpdatedTime"`
		LastActivityTime      string                 `json:"lastActivityTime"`
		Waiting               int                    `json:"cloudToDeviceMessageCount"`
		Authentication        authenticationDocument `json:"authentication"`
		Capabilities          capabilities           `json:"capabilities"`
		DeviceScope           string                 `json:"deviceScope,omitempty"`
		ParentScopes          []string               `json:"parentScopes,omitempty"`
	}
	moduleDocument struct {
		ModuleID              string                 `json:"moduleId"`
		ManagedBy             *string                `json:"managedBy"`
		DeviceID              string                 `json:"deviceId"`
		Generation            string                 `json:"generationId"`
		Etag                  string                 `json:"etag"`
		ConnectionState       string                 `json:"connectionState"`
		ConnectionUpdatedTime string                 `json:"connectionStateUpdatedTime"`
		LastActivityTime      string                 `json:"lastActivityTime"`
		Waiting               int                    `json:"cloudToDeviceMessageCount"`
		Authentication        authenticationDocument `json:"authentication"`
	}
	authenticationDocument struct {
		SymmetricKey struct {
			Primary   *string `json:"primaryKey"`
			Secondary *string `json:"secondaryKey"`
		} `json:"symmetricKey"`
		Thumbprint thumbprints `json:"x509Thumbprint"`
		Type       string      `json:"type"`
	}
	thumbprints struct {
		Primary   *string `json:"primaryThumbprint"`
		Secondary *string `json:"secondaryThumbprint"`
	}
	capabilities struct {
		IotEdge bool `json:"iotEdge"`
	}
)

// orNull is nil for the empty string.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func connectionState(connected bool) string {
	if connected {
		return "Connected"
	}
	return "Disconnected"
}

func status(enabled bool) string {
	if enabled {
		return "enabled"
	}
	return "disabled"
}

func scopes(parent string) []string {
	if parent == "" {
		return nil
	}
	return []string{parent}
}

func thumbprintsOf(a registry.Authentication) thumbprints {
	return thumbprints{orNull(a.Thumbprints[0]), orNull(a.Thumbprints[1])}
}

// document renders an identity. The edge daemon knows fewer kinds of
// authentication than services do (service-protocol 4.8).
func (a *api) document(c *call, i registry.Identity) (any, error) {
	d := authenticationDocument{Thumbprint: thumbprintsOf(i.Auth), Type: i.Auth.Type}
	d.SymmetricKey.Primary, d.SymmetricKey.Secondary = orNull(i.Auth.Keys[0]), orNull(i.Auth.Keys[1])
	if c.own && (d.Type == registry.SelfSigned || d.Type == registry.CertificateAuthority) {
		d.Type = x509
	}
	if i.ID.IsModule() {
		return moduleDocument{ModuleID: i.ID.Module, ManagedBy: i.ManagedBy, DeviceID: i.ID.Device, Generation: i.Generation,
			Etag: i.Etag(), ConnectionState: connectionState(i.Connected), ConnectionUpdatedTime: wireTime(i.ConnectionUpdated),
			LastActivityTime: wireTime(i.LastActivity), Authentication: d}, nil
	}
	waiting, err := a.Inbox.Waiting(c.r.Context(), i.ID)
	if err != nil {
		return nil, err
	}
	return deviceDocument{DeviceID: i.ID.Device, Generation: i.Generation, Etag: i.Etag(),
		ConnectionState: connectionState(i.Connected), Status: status(i.Enabled), StatusReason: i.StatusReason,
		ConnectionUpdatedTime: wireTime(i.ConnectionUpdated), StatusUpdatedTime: wireTime(i.StatusUpdated),
		LastActivityTime: wireTime(i.LastActivity), Waiting: waiting, Authentication: d, Capabilities: capabilities{i.Edge},
		DeviceScope: i.Scope, ParentScopes: scopes(i.ParentScope)}, nil
}

func (a *api) answerIdentity(c *call, i registry.Identity) error {
	doc, err := a.document(c, i)
	if err != nil {
		return err
	}
	return c.answer(doc, i.Etag())
}

func (a *api) answerList(c *call, all []registry.Identity) error {
	docs := make([]any, 0, len(all))
	for _, i := range all {
		doc, err := a.document(c, i)
		if err != nil {
			return err
		}
		docs = append(docs, doc)
	}
	return c.answer(docs, "")
}

func (a *api) getIdentity(c *call) error {
	i, err := a.Registry.Get(c.r.Context(), c.id)
	if err != nil {
		return err
	}
	return a.answerIdentity(c, i)
}

// maxList is how many devices a list shows at most, and when nothing is said.
const maxList = 1000

func (a *api) listDevices(c *call) error {
	top := maxList
	if s := c.query.Get("top"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fault.New(fault.ArgumentInvalid, "top %q is not a number from 1 to %d", s, maxList)
		}
		top = min(n, maxList)
	}
	all, err := a.Registry.List(c.r.Context(), top)
	if err != nil {
		return err
	}
	return a.answerList(c, all)
}

func (a *api) listModules(c *call) error {
	all, err := a.Registry.Modules(c.r.Context(), c.id.Device)
	if err != nil {
		return err
	}
	return a.answerList(c, all)
}

// putIdentity creates without If-Match and updates with it.
func (a *api) putIdentity(c *call) error {
	var body identityBody
	if err := c.object(&body); err != nil {
		return err
	}
	spec, err := body.spec(c.id)
	if err != nil {
		return err
	}
	var i registry.Identity
	match, change := c.ifMatch(), "update identity"
	switch {
	case match != "":
		i, err = a.Registry.Update(c.r.Context(), spec, match)
	default:
		change = "create identity"
		i, err = a.Registry.Create(c.r.Context(), spec)
	}
	if err != nil {
		return err
	}
	a.audit(c, change)
	return a.answerIdentity(c, i)
}

func (a *api) deleteIdentity(c *call) error {
	if err := a.Registry.Delete(c.r.Context(), c.id, c.ifMatch()); err != nil {
		return err
	}
	a.audit(c, "delete identity")
	return c.done()
}

func (a *api) deviceStatistics(c *call) error {
	s, err := a.Registry.Statistics(c.r.Context())
	if err != nil {
		return err
	}
	return c.answer(struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}{s.Total, s.Enabled, s.Disabled}, "")
}

func (a *api) serviceStatistics(c *call) error {
	s, err := a.Registry.Statistics(c.r.Context())
	if err != nil {
		return err
	}
	return c.answer(struct {
		Connected int `json:"connectedDeviceCount"`
	}{s.Connected}, "")
}

func (a *api) purge(c *call) error {
	if _, err := a.Registry.Get(c.r.Context(), c.id); err != nil {
		return err
	}
	n, err := a.Inbox.Purge(c.r.Context(), c.id)
	if err != nil {
		return err
	}
	a.audit(c, "purge messages", "count", n)
	return c.answer(struct {
		Purged   int     `json:"totalMessagesPurged"`
		DeviceID string  `json:"deviceId"`
		ModuleID *string `json:"moduleId"`
	}{n, c.id.Device, nil}, "")
}
