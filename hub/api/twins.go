package api

import (
	"encoding/json"
	"net/http"

	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/twins"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

// twinDocument is a twin as services read it (service-protocol 5.1).
type twinDocument struct {
	DeviceID           string       `json:"deviceId"`
	ModuleID           string       `json:"moduleId,omitempty"`
	Etag               string       `json:"etag"`
	DeviceEtag         string       `json:"deviceEtag"`
	Status             string       `json:"status"`
	StatusReason       *string      `json:"statusReason,omitempty"`
	StatusUpdateTime   string       `json:"statusUpdateTime"`
	ConnectionState    string       `json:"connectionState"`
	LastActivityTime   string       `json:"lastActivityTime"`
	Waiting            int          `json:"cloudToDeviceMessageCount"`
	AuthenticationType string       `json:"authenticationType"`
	Thumbprint         thumbprints  `json:"x509Thumbprint"`
	ModelID            string       `json:"modelId"`
	Version            int64        `json:"version"`
	Tags               *twin.Object `json:"tags"`
	Properties         struct {
		Desired  json.RawMessage `json:"desired"`
		Reported json.RawMessage `json:"reported"`
	} `json:"properties"`
	Capabilities capabilities `json:"capabilities"`
	DeviceScope  string       `json:"deviceScope,omitempty"`
	ParentScopes []string     `json:"parentScopes,omitempty"`
}

func (a *api) getTwin(c *call) error {
	tw, err := a.Twins.Get(c.r.Context(), c.id)
	if err != nil {
		return err
	}
	return a.answerTwin(c, tw)
}

func (a *api) answerTwin(c *call, tw twins.Twin) error {
	i, err := a.Registry.Get(c.r.Context(), tw.ID)
	if err != nil {
		return err
	}
	enabled, waiting := i.Enabled, 0
	if tw.ID.IsModule() {
		device, err := a.Registry.Get(c.r.Context(), ident.ID{Device: tw.ID.Device})
		if err != nil {
			return err
		}
		enabled = device.Enabled
	} else if waiting, err = a.Inbox.Waiting(c.r.Context(), tw.ID); err != nil {
		return err
	}
	return c.answer(a.twinDocument(i, tw, enabled, waiting), tw.Etag())
}

func (a *api) twinDocument(i registry.Identity, tw twins.Twin, enabled bool, waiting int) twinDocument {
	doc := twinDocument{DeviceID: tw.ID.Device, ModuleID: tw.ID.Module, Etag: tw.Etag(), DeviceEtag: i.Etag(),
		Status: status(enabled), StatusReason: i.StatusReason, StatusUpdateTime: wireTime(i.StatusUpdated),
		ConnectionState: connectionState(i.Connected), LastActivityTime: wireTime(i.LastActivity), Waiting: waiting,
		AuthenticationType: i.Auth.Type, Thumbprint: thumbprintsOf(i.Auth), ModelID: tw.ModelID, Version: tw.Version,
		Tags: tw.Tags, Capabilities: capabilities{i.Edge}, DeviceScope: i.Scope, ParentScopes: scopes(i.ParentScope)}
	doc.Properties.Desired, doc.Properties.Reported = tw.Desired.ServiceJSON(), tw.Reported.ServiceJSON()
	return doc
}

// twinBody is what we read of a twin that a service posts; the rest is ignored.
type twinBody struct {
	Tags       *twin.Object `json:"tags"`
	Properties *struct {
		Desired *twin.Object `json:"desired"`
	} `json:"properties"`
}

// writeTwin serves PATCH and PUT.
func (a *api) writeTwin(c *call) error {
	var body twinBody
	if err := c.object(&body); err != nil {
		return err
	}
	u := twins.Update{ID: c.id, Tags: body.Tags, Replace: c.r.Method == http.MethodPut}
	if body.Properties != nil {
		u.Desired = body.Properties.Desired
	}
	tw, err := a.Twins.Apply(c.r.Context(), u, c.ifMatch())
	if err != nil {
		return err
	}
	what := "update twin"
	if u.Replace {
		what = "replace twin"
	}
	a.audit(c, what, "version", tw.Version)
	return a.answerTwin(c, tw)
}

// update gives the parts of a document for which a bulk call or configuration
// content brings a first twin; ok is false when there is none.
func (b *twinBody) update(id ident.ID) (u twins.Update, ok bool) {
	u = twins.Update{ID: id, Tags: b.Tags}
	if b.Properties != nil {
		u.Desired = b.Properties.Desired
	}
	return u, u.Tags != nil || u.Desired != nil
}
