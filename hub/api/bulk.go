package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
)

// maxBulkItems is how many identities one bulk call may name.
const maxBulkItems = 100

// bulkItem is one line of a bulk call (service-protocol 4.6).
type bulkItem struct {
	identityBody
	twinBody
	ID         string `json:"id"`
	Etag       string `json:"eTag"`
	TwinEtag   string `json:"twinETag"`
	ImportMode string `json:"importMode"`
}

// bulkError is one item that failed.
type bulkError struct {
	DeviceID  string `json:"deviceId"`
	ModuleID  string `json:"moduleId,omitempty"`
	Code      string `json:"errorCode"`
	Text      string `json:"errorStatus"`
	Operation string `json:"operation"`
}

func (i *bulkItem) id() ident.ID { return ident.ID{Device: i.ID, Module: value(i.ModuleID)} }

// bulk makes many changes, each for itself; the answer lists those that failed.
func (a *api) bulk(c *call) error {
	var items []bulkItem
	if err := c.object(&items); err != nil {
		return err
	}
	if len(items) > maxBulkItems {
		return fault.New(fault.TooManyDevices, "the list has %d items, the most is %d", len(items), maxBulkItems)
	}
	failed := []bulkError{}
	seen := map[ident.ID]bool{}
	for n := range items {
		item := &items[n]
		mode := strings.ToLower(item.ImportMode)
		if mode == "" {
			mode = "create"
		}
		if problem := a.bulkOne(c, item, mode, seen); problem != nil {
			failed = append(failed, bulkError{item.ID, value(item.ModuleID), bulkCode(problem), fault.TextOf(problem), mode})
			if fault.CodeOf(problem) == fault.ServerError {
				a.Log.ErrorContext(c.r.Context(), "bulk item failed", "device", item.ID, "err", problem)
			}
		}
	}
	out, err := json.Marshal(struct {
		OK       bool        `json:"isSuccessful"`
		Errors   []bulkError `json:"errors"`
		Warnings []struct{}  `json:"warnings"`
	}{len(failed) == 0, failed, []struct{}{}})
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	status := http.StatusOK
	if len(failed) > 0 {
		status = http.StatusBadRequest
		// Both names: the second makes .NET return the body instead of throwing.
		c.w.Header().Set("iothub-errorcode", fault.BulkRegistryFailure.Name())
		c.w.Header().Set("IotHubErrorCode", fault.BulkRegistryFailure.Name())
	}
	writeJSON(c.w, status, out)
	return nil
}

func (a *api) bulkOne(c *call, item *bulkItem, mode string, seen map[ident.ID]bool) error {
	id := item.id()
	if seen[id] {
		return fault.New(fault.DeviceDefinedTwice, "%s stands in the list more than once", id)
	}
	seen[id] = true
	if err := id.Check(); err != nil {
		return err
	}
	item.DeviceID, item.ModuleID = nil, nil
	ctx := c.r.Context()
	etag := strings.Trim(item.Etag, `"`)
	var err error
	switch mode {
	case "create":
		err = a.bulkCreate(ctx, id, item)
	case "update":
		err = a.bulkUpdate(ctx, id, item, "*")
	case "updateifmatchetag":
		err = a.bulkUpdate(ctx, id, item, needEtag(etag))
	case "createorupdate", "createorupdateifmatchetag":
		err = a.bulkCreate(ctx, id, item)
		if fault.Is(err, fault.DeviceAlreadyExists) || fault.Is(err, fault.ModuleAlreadyExists) {
			if mode == "createorupdate" {
				etag = "*"
			}
			err = a.bulkUpdate(ctx, id, item, needEtag(etag))
		}
	case "delete":
		err = a.Registry.Delete(ctx, id, "*")
	case "deleteifmatchetag":
		err = a.Registry.Delete(ctx, id, needEtag(etag))
	case "updatetwin":
		err = a.bulkTwin(ctx, id, item, "*")
	case "updatetwinifmatchetag":
		err = a.bulkTwin(ctx, id, item, needEtag(strings.Trim(item.TwinEtag, `"`)))
	default:
		return fault.New(fault.ArgumentInvalid, "importMode %q is unknown", item.ImportMode)
	}
	if err == nil {
		c.id = id
		a.audit(c, "bulk "+mode)
		c.id = ident.ID{}
	}
	return err
}

// needEtag gives an etag that matches nothing for an item that brings none.
func needEtag(etag string) string {
	if etag == "" {
		return "-"
	}
	return etag
}

func (a *api) bulkCreate(ctx context.Context, id ident.ID, item *bulkItem) error {
	spec, err := item.spec(id)
	if err != nil {
		return err
	}
	u, hasTwin := item.update(id)
	if err := u.Check(); err != nil {
		return err
	}
	if _, err := a.Registry.Create(ctx, spec); err != nil || !hasTwin {
		return err
	}
	_, err = a.Twins.Apply(ctx, u, "")
	return err
}

func (a *api) bulkUpdate(ctx context.Context, id ident.ID, item *bulkItem, match string) error {
	spec, err := item.spec(id)
	if err != nil {
		return err
	}
	_, err = a.Registry.Update(ctx, spec, match)
	return err
}

func (a *api) bulkTwin(ctx context.Context, id ident.ID, item *bulkItem, match string) error {
	u, ok := item.update(id)
	if !ok {
		return fault.New(fault.ArgumentInvalid, "the item brings neither tags nor desired properties")
	}
	_, err := a.Twins.Apply(ctx, u, match)
	return err
}

// bulkCode is the name of a fault among those that .NET can read in a bulk answer.
func bulkCode(err error) string {
	switch code := fault.CodeOf(err); code {
	case fault.InvalidDeviceScope:
		return fault.ArgumentInvalid.Name()
	case fault.SystemModuleModify:
		return fault.InvalidOperation.Name()
	default:
		return code.Name()
	}
}
