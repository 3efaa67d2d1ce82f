package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/method"
	"github.com/selvedge-io/selvedge/model/twin"
)

// schemaVersion of the reported properties of $edgeHub (edge-runtime 1.12).
const schemaVersion = "1.0"

// presencePause gathers clients that come and go into one report.
const presencePause = time.Second

// client is what is reported of one module.
type client struct {
	connected bool
	since     time.Time // connected last
	until     time.Time // disconnected last
	gone      bool      // it is no more: its end is still to be reported
	changed   bool      // not reported yet
}

// configure puts the desired properties of $edgeHub into force, the kept ones first
// and then each change, and reports how that went.
func (b *Broker) configure(ctx context.Context, hub *twinState) {
	b.reportHub(ctx, map[string]any{
		"schemaVersion": schemaVersion,
		"version":       map[string]string{"version": cmp.Or(b.cfg.Version, "unknown"), "build": "", "commit": ""},
		"clients":       nil,
	})
	applied := int64(-1)
	for {
		hub.mu.Lock()
		known, version, desired := hub.Known, hub.DesiredVersion, hub.Desired
		hub.mu.Unlock()
		if known && desired.Len() > 0 && version != applied {
			applied = version
			b.applyReported(ctx, version, desired)
		} else if known && desired.Len() == 0 && version != applied {
			applied = version
			b.log.Warn("the deployment says nothing about $edgeHub; routes stay as they are, and without any messages are refused", "version", version)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.reconfigure:
		}
	}
}

func (b *Broker) applyReported(ctx context.Context, version int64, desired *twin.Object) {
	code, description := 200, ""
	err := b.Apply(ctx, desired.AppendJSON(nil))
	switch {
	case err == nil:
		b.log.Info("routes are in force", "version", version, "routes", desired.Child("routes").Len())
	case fault.Is(err, fault.InvalidConfiguration):
		code, description = 400, fault.TextOf(err)
		b.log.Error("configuration of the edge broker is refused, the one before stays in force", "version", version, "err", err)
	default:
		code, description = 500, fault.TextOf(err)
		b.log.Error("configuration of the edge broker is not wholly in force", "version", version, "err", err)
	}
	if len(description) > 1024 {
		description = strings.ToValidUTF8(description[:1024], "")
	}
	b.reportHub(ctx, map[string]any{
		"lastDesiredVersion": version,
		"lastDesiredStatus":  map[string]any{"code": code, "description": description},
	})
}

// reportHub reports properties of $edgeHub.
func (b *Broker) reportHub(ctx context.Context, patch map[string]any) {
	doc, err := encode(patch)
	if err == nil {
		_, err = b.report(ctx, b.self, doc, 0)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Warn("state of the edge broker is not reported", "err", err)
	}
}

func encode(patch map[string]any) (*twin.Object, error) {
	var raw bytes.Buffer
	if err := json.NewEncoder(&raw).Encode(patch); err != nil {
		return nil, err
	}
	return twin.Parse(raw.Bytes())
}

// noteClient notes that a module came or went. The agent is part of this program and no
// client. The caller holds b.mu, so that coming and going are noted as they happen.
func (b *Broker) noteClient(id ident.ID, connected bool) {
	if id.Module == ident.EdgeAgent {
		return
	}
	now := time.Now()
	c := b.clients[id]
	if c.gone && !connected {
		return // the end of what is forgotten
	}
	c.connected, c.gone, c.changed = connected, false, true
	if connected {
		c.since = now
	} else {
		c.until = now
	}
	b.clients[id] = c
}

// tellClient has reported what was noted.
func (b *Broker) tellClient(id ident.ID, what string) {
	if id.Module == ident.EdgeAgent {
		return
	}
	b.log.Info("module "+what, "device", id.Device, "module", id.Module)
	select {
	case b.presence <- struct{}{}:
	default:
	}
}

// reportClients keeps the list of clients in the reported properties up to date.
func (b *Broker) reportClients(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.presence:
		}
		if patch := b.changedClients(); len(patch) > 0 {
			b.reportHub(ctx, map[string]any{"clients": patch})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(presencePause):
		}
	}
}

func (b *Broker) changedClients() map[string]any {
	b.mu.Lock()
	defer b.mu.Unlock()
	patch := make(map[string]any)
	for id, c := range b.clients {
		if !c.changed {
			continue
		}
		if c.gone {
			patch[twinKey(id)] = nil
			delete(b.clients, id)
			continue
		}
		c.changed = false
		b.clients[id] = c
		entry := map[string]any{"status": "Disconnected"}
		if c.connected {
			entry["status"] = "Connected"
		}
		if !c.since.IsZero() {
			entry["lastConnectedTimeUtc"] = c.since.UTC().Format(time.RFC3339Nano)
		}
		if !c.until.IsZero() {
			entry["lastDisconnectedTimeUtc"] = c.until.UTC().Format(time.RFC3339Nano)
		}
		patch[twinKey(id)] = entry
	}
	return patch
}

// twinKey writes an identity so that it can be a key in a twin.
func twinKey(id ident.ID) string {
	return strings.NewReplacer(".", "%2E", "$", "%24", " ", "%20").Replace(id.String())
}

// invokeSelf is the one direct method of $edgeHub: the hub says that identities
// changed (edge-runtime 4.5).
func (b *Broker) invokeSelf(ctx context.Context, c *method.Call) (method.Reply, error) {
	if c.Name != "RefreshDeviceScopeIdentityCache" || b.cfg.Refresh == nil {
		return reply(404, errors.New("the edge broker has no method "+c.Name)), nil
	}
	var which struct {
		IDs []string `json:"deviceIds"`
	}
	if err := json.Unmarshal(c.Payload, &which); err != nil || len(which.IDs) == 0 {
		return reply(400, errors.New(`the payload must be {"deviceIds":["device","device/module"]}`)), nil
	}
	if err := b.cfg.Refresh(ctx, which.IDs); err != nil {
		b.log.Warn("identities are not refreshed", "err", err)
		return reply(500, errors.New("identities are not refreshed")), nil
	}
	return reply(200, nil), nil
}

func reply(status int, err error) method.Reply {
	r := method.Reply{Status: status}
	if err != nil {
		r.Payload, _ = json.Marshal(map[string]string{"message": err.Error()})
	}
	return r
}
