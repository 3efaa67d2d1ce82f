package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/method"
)

// handler is a direct method of $edgeAgent. Its errors are faults, or ours to debug.
type handler struct {
	name string
	do   func(a *Agent, ctx context.Context, payload []byte) (any, error)
}

// handlers are the direct methods (edge-runtime 2.10). The uploads need a place to
// upload to, which is not there yet.
var handlers = []handler{
	{"ping", func(*Agent, context.Context, []byte) (any, error) { return nil, nil }},
	{"RestartModule", (*Agent).restartModule},
	{"GetModuleLogs", (*Agent).getModuleLogs},
	{"GetTaskStatus", (*Agent).getTaskStatus},
	{"UploadModuleLogs", notYet},
	{"UploadSupportBundle", notYet},
}

var errNotYet = errors.New("this gateway does not upload logs yet; read them with GetModuleLogs, or on the device with: selvedge edge logs MODULE")

func notYet(*Agent, context.Context, []byte) (any, error) { return nil, errNotYet }

// Invoke answers a direct method of $edgeAgent. Names match in any case.
func (a *Agent) Invoke(ctx context.Context, c *method.Call) method.Reply {
	i := slices.IndexFunc(handlers, func(h handler) bool { return strings.EqualFold(h.name, c.Name) })
	if i < 0 {
		var names []string
		for _, h := range handlers {
			names = append(names, h.name)
		}
		return failure(400, fmt.Sprintf("there is no method %q; there are %s", c.Name, strings.Join(names, ", ")))
	}
	answer, err := handlers[i].do(a, ctx, c.Payload)
	switch {
	case errors.Is(err, errNotYet):
		return failure(501, err.Error())
	case fault.Is(err, fault.ArgumentInvalid):
		return failure(400, fault.TextOf(err))
	case err != nil:
		a.log.Warn("direct method failed", "method", c.Name, "err", err)
		return failure(500, err.Error())
	}
	payload, err := json.Marshal(answer)
	if err != nil {
		a.log.Error("answer of a direct method cannot be written", "method", c.Name, "err", err)
		return failure(500, fault.TextOf(err))
	}
	return method.Reply{Status: 200, Payload: payload}
}

func failure(status int, text string) method.Reply {
	payload, err := json.Marshal(map[string]string{"message": text})
	if err != nil { // strings always can be
		payload = nil
	}
	return method.Reply{Status: status, Payload: payload}
}

func bad(format string, args ...any) error { return fault.New(fault.ArgumentInvalid, format, args...) }

// readRequest decodes a payload and checks its schemaVersion: 1 and anything behind it.
func readRequest(payload []byte, into any) error {
	var head struct {
		SchemaVersion string `json:"schemaVersion"`
	}
	if err := json.Unmarshal(payload, &head); err != nil {
		return unreadable(err)
	}
	if major, _, _ := strings.Cut(head.SchemaVersion, "."); major != "1" {
		return bad(`schemaVersion %.20q is not supported; write "1.0"`, head.SchemaVersion)
	}
	if err := json.Unmarshal(payload, into); err != nil {
		return unreadable(err)
	}
	return nil
}

// unreadable says what is wrong with a payload, without our names for it.
func unreadable(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return bad("the payload must be an object, not a %s", wrong.Value)
		}
		return bad("%s must not be a %s", wrong.Field, wrong.Value)
	}
	return bad("the payload is not valid JSON: %v", err)
}

func (a *Agent) restartModule(ctx context.Context, payload []byte) (any, error) {
	var r struct {
		ID string `json:"id"`
	}
	if err := readRequest(payload, &r); err != nil {
		return nil, err
	}
	if r.ID == "" {
		return nil, bad("id is missing: which module is to be restarted?")
	}
	return nil, a.Restart(ctx, r.ID)
}

// getTaskStatus knows no task, since nothing begins one: that is an answer, not an error.
func (a *Agent) getTaskStatus(_ context.Context, payload []byte) (any, error) {
	var r struct {
		CorrelationID string `json:"correlationId"`
	}
	if err := readRequest(payload, &r); err != nil {
		return nil, err
	}
	return map[string]string{"status": "Unknown", "message": "", "correlationId": r.CorrelationID}, nil
}
