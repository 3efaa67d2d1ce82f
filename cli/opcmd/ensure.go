package opcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/selvedge-io/selvedge/model/manifest"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// EnsureEdge registers an edge gateway unless there is one of that name, and gives its
// connection string.
func EnsureEdge(ctx context.Context, t Target, id string) (connectionString string, err error) {
	h, err := dialHub(t)
	if err != nil {
		return "", err
	}
	defer h.http.CloseIdleConnections()
	raw, err := h.call(ctx, request{method: http.MethodGet, path: devicePath(id)})
	if err != nil { // whatever is wrong, creating it tells
		body, err := json.Marshal(map[string]any{"deviceId": id, "capabilities": map[string]bool{"iotEdge": true},
			"authentication": (&keyFlags{}).document()})
		if err != nil {
			return "", fmt.Errorf("create device: %w", err)
		}
		if raw, err = h.call(ctx, request{method: http.MethodPut, path: devicePath(id), body: body}); err != nil {
			return "", err
		}
	}
	var d device
	if err := json.Unmarshal(raw, &d); err != nil {
		return "", fmt.Errorf("read device %s: %w", id, err)
	}
	if !d.Capabilities.IotEdge || d.Authentication.SymmetricKey.PrimaryKey == "" {
		return "", fmt.Errorf("the device %s is there already and is no edge gateway with a key: delete it with  selvedge device delete %s", id, id)
	}
	cs := sas.ConnectionString{HostName: h.host, DeviceID: id, SharedAccessKey: d.Authentication.SymmetricKey.PrimaryKey}
	return cs.String(), nil
}

// Deploy gives an edge gateway a deployment manifest, after checking it.
func Deploy(ctx context.Context, t Target, id string, text []byte) error {
	content, err := manifest.Content(text)
	if err == nil {
		err = checkRoutes(content)
	}
	if err != nil {
		return err
	}
	h, err := dialHub(t)
	if err != nil {
		return err
	}
	defer h.http.CloseIdleConnections()
	_, err = h.call(ctx, request{method: http.MethodPost, path: devicePath(id) + "/applyConfigurationContent", body: content})
	return err
}
