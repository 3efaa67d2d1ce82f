package expr

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"github.com/tidwall/gjson"

	"github.com/selvedge-io/selvedge/model/message"
)

// Values of edgeHubOriginInterface: whether a module of this device or something
// below it sent the message (edge-runtime 4.3).
const (
	originInternal   = "internal"
	originDownstream = "downstream"
)

// system is the value of a system property by its name in conditions, in lower case;
// empty when it is absent.
func system(m *message.Message, name string) string {
	s := &m.System
	switch name {
	case "messageid":
		return s.MessageID
	case "enqueuedtime":
		if s.Enqueued.IsZero() {
			return ""
		}
		return s.Enqueued.UTC().Format(message.TimeFormat)
	case "to":
		return s.To
	case "correlationid", "cid":
		return s.CorrelationID
	case "userid":
		return s.UserID
	case "ack":
		return s.Ack
	case "connectiondeviceid":
		return s.ConnectionDevice
	case "connectionmoduleid":
		return s.ConnectionModule
	case "inputname":
		return s.Input
	case "outputname":
		return s.Output
	case "connectiondevicegenerationid":
		return s.Generation
	case "connectionauthmethod":
		return s.AuthMethod
	case "contenttype":
		return s.ContentType
	case "contentencoding":
		return s.ContentEncoding
	case "messageschema":
		return s.Schema
	case "edgehuborigininterface":
		return originOf(s)
	case "creationtime":
		return s.CreationTime
	case "operation":
		return s.Operation
	case "sequencenumber":
		if s.Sequence == 0 {
			return ""
		}
		return strconv.FormatUint(s.Sequence, 10)
	case "iothub-interface-id":
		return s.InterfaceID
	case "modelid":
		return s.ModelID
	case "dt-subject":
		return s.Component
	default:
		return ""
	}
}

func originOf(s *message.System) string {
	switch {
	case s.ConnectionModule != "":
		return originInternal
	case s.ConnectionDevice != "":
		return originDownstream
	default:
		return ""
	}
}

// body is the JSON document of a message, decoded and checked when the first query
// asks for it.
type body struct {
	looked bool
	root   gjson.Result // not an object when there is nothing to query
}

func (b *body) query(m *message.Message, path []step) value {
	if !b.looked {
		b.looked = true
		b.root = document(m)
	}
	at := b.root
	if !at.IsObject() {
		return value{}
	}
	for _, s := range path {
		if !at.IsObject() {
			return value{kind: null} // a path that leads nowhere is null
		}
		at = at.Get(s.key)
		if s.index == "" {
			continue
		}
		if !at.IsArray() {
			return value{kind: null}
		}
		at = at.Get(s.index)
	}
	return convert(at)
}

func convert(r gjson.Result) value {
	switch r.Type {
	case gjson.True, gjson.False:
		return truth(r.Type == gjson.True)
	case gjson.Number:
		return value{kind: number, num: r.Num}
	case gjson.String:
		if isDateTime(r.Str) {
			return value{}
		}
		return value{kind: text, text: r.Str}
	case gjson.Null:
		return value{kind: null}
	default:
		return value{} // objects and arrays
	}
}

// document is the body as JSON, or nothing unless the message says that it is JSON in
// a Unicode encoding, and it is.
func document(m *message.Message) gjson.Result {
	if !strings.EqualFold(m.System.ContentType, "application/json") || len(m.Body) == 0 {
		return gjson.Result{}
	}
	var json string
	switch enc := m.System.ContentEncoding; {
	case strings.EqualFold(enc, "utf-8"):
		// No copy: the message is unchanged while its environment is in use.
		json = unsafe.String(unsafe.SliceData(m.Body), len(m.Body))
	case strings.EqualFold(enc, "utf-16"):
		json = decode(m.Body, 2)
	case strings.EqualFold(enc, "utf-32"):
		json = decode(m.Body, 4)
	}
	json = strings.TrimPrefix(json, "\ufeff")
	if !gjson.Valid(json) {
		return gjson.Result{}
	}
	return gjson.Parse(json)
}

// decode reads little-endian UTF-16 or UTF-32, as .NET means by these names, or
// nothing when the length does not fit.
func decode(b []byte, width int) string {
	if len(b)%width != 0 {
		return ""
	}
	if width == 4 {
		out := make([]byte, 0, len(b)/4)
		for ; len(b) > 0; b = b[4:] {
			out = utf8.AppendRune(out, rune(binary.LittleEndian.Uint32(b)))
		}
		return string(out)
	}
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) > 0; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}

// isDateTime says whether the original's JSON parser would have made a date of the
// text, which conditions then cannot see: ISO 8601 with a T, from 19 to 40 characters.
func isDateTime(s string) bool {
	if len(s) < 19 || len(s) > 40 || s[10] != 'T' || s[0] < '0' || s[0] > '9' {
		return false
	}
	for _, zone := range [...]string{"", "Z07:00", "Z0700", "Z07"} {
		if _, err := time.Parse("2006-01-02T15:04:05"+zone, s); err == nil {
			return true
		}
	}
	return false
}
