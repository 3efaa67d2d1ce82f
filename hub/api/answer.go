package api

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

// never is how a time that never came is written (service-protocol 3.2).
const never = "0001-01-01T00:00:00Z"

func wireTime(t time.Time) string {
	if t.IsZero() {
		return never
	}
	return t.UTC().Format(message.TimeFormat)
}

// answer writes v as JSON; etag, when not empty, becomes the quoted ETag header.
func (c *call) answer(v any, etag string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if etag != "" {
		c.w.Header().Set("ETag", `"`+etag+`"`)
	}
	writeJSON(c.w, http.StatusOK, bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return nil
}

// done answers 204.
func (c *call) done() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away needs no answer
}

// ifMatch gives the If-Match header without quotes and weakness mark, empty when
// there is none (service-protocol 3.3).
func (c *call) ifMatch() string {
	v := strings.TrimPrefix(strings.TrimSpace(c.r.Header.Get("If-Match")), "W/")
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		v = v[1 : len(v)-1]
	}
	return v
}

// object reads the body as JSON into v.
func (c *call) object(v any) error {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return fault.New(fault.ArgumentNull, "the body is missing")
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		if fault.CodeOf(err) == fault.ArgumentInvalid {
			return err
		}
		return fault.Wrap(err, fault.ArgumentInvalid, "the body is not the JSON that is wanted here: %s", jsonTrouble(err))
	}
	return nil
}

// jsonTrouble says what is wrong with a body, in words about JSON and not Go.
func jsonTrouble(err error) string {
	switch err := err.(type) {
	case *json.SyntaxError:
		return fmt.Sprintf("syntax error at byte %d", err.Offset)
	case *json.UnmarshalTypeError:
		return fmt.Sprintf("%q must not be a %s", err.Field, err.Value)
	}
	return "it could not be read"
}

// waited is an error with the time that was waited, for info.timeout.
type waited struct {
	error
	timeout time.Duration
}

func (w waited) Unwrap() error { return w.error }

// refuse answers an error in the shape of the route and writes what somebody has to
// look at into the log, under the tracking id of the answer.
func (a *api) refuse(c *call, rt *route, err error) {
	code, text := fault.CodeOf(err), fault.TextOf(err)
	now := a.Now().UTC()
	tracking := fmt.Sprintf("%s-G:0-TimeStamp:%s", randomHex(), now.Format("01/02/2006 15:04:05"))
	a.logRefusal(c, code, tracking, err)
	var body any
	if rt != nil && rt.nested {
		inner := struct {
			ErrorCode int    `json:"errorCode"`
			Tracking  string `json:"trackingId"`
			Message   string `json:"message"`
			Info      any    `json:"info"`
			At        string `json:"timestampUtc"`
		}{int(code), tracking, text, struct{}{}, now.Format(message.TimeFormat)}
		if w, ok := err.(waited); ok {
			inner.Info = map[string]string{"timeout": clock(w.timeout)}
		}
		message, merr := json.Marshal(inner)
		if merr != nil {
			message = nil // cannot be: plain strings and numbers
		}
		body = errorBody{Message: string(message)}
	} else {
		body = errorBody{Message: "ErrorCode:" + code.Name() + ";" + text, ExceptionMessage: "Tracking ID:" + tracking}
	}
	c.w.Header().Set("iothub-errorcode", code.Name())
	out, merr := json.Marshal(body)
	if merr != nil {
		out = nil
	}
	writeJSON(c.w, code.Status(), out)
}

// logRefusal is loud about what went wrong here and about calls that nobody should have
// made, and quiet about what happens every day.
func (a *api) logRefusal(c *call, code fault.Code, tracking string, err error) {
	args := []any{"method", fmt.Sprintf("%.20s", c.r.Method), "path", fmt.Sprintf("%.300s", c.r.URL.Path), "code", int(code), "tracking", tracking}
	switch status := code.Status(); {
	case status >= 500 && code != fault.GatewayTimeout:
		a.Log.ErrorContext(c.r.Context(), "call failed", append(args, "err", err)...)
	case status == http.StatusBadRequest, status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusRequestEntityTooLarge:
		a.refusals.Warn(a.Log, c.r.RemoteAddr, "call refused", append(args, "err", fmt.Sprintf("%.1000v", err))...)
	default:
		a.Log.DebugContext(c.r.Context(), "call refused", append(args, "err", err)...)
	}
}

type errorBody struct {
	Message          string
	ExceptionMessage string
}

func randomHex() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// clock writes a duration as hh:mm:ss.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
