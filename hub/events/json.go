package events

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/selvedge-io/selvedge/model/message"
)

// AppendJSON adds the event as one line of JSON, with its newline, behind dst.
func (e *Event) AppendJSON(dst []byte) []byte {
	w := writer{line: dst}
	w.event(e)
	return w.line
}

// timeForm is how times are written, to the millisecond.
const timeForm = "2006-01-02T15:04:05.000Z"

// Bounds of what a writer keeps and shows.
const (
	maxLine  = 1 << 20 // a longer buffer is not kept
	maxDepth = 256     // bodies nested deeper are shown as text, lest a reader chokes
)

// writer makes lines of JSON of events; members come in a fixed order. It keeps
// its memory.
type writer struct {
	line    []byte
	compact bytes.Buffer
	members int // of the object being written
}

func (w *writer) reset() {
	if cap(w.line) > maxLine {
		w.line = nil
	}
	w.line = w.line[:0]
}

// event adds the line of e.
func (w *writer) event(e *Event) {
	m, s := &e.Message, &e.Message.System
	w.open()
	w.text("partition", strconv.Itoa(e.Partition))
	w.text("offset", strconv.FormatInt(e.Offset, 10))
	w.name("sequenceNumber")
	w.line = strconv.AppendInt(w.line, e.Sequence, 10)
	w.time("enqueuedTime", e.Enqueued)
	w.text("deviceId", s.ConnectionDevice)
	w.some("moduleId", s.ConnectionModule)
	w.some("messageSource", s.Source)
	w.name("properties")
	w.open()
	for _, p := range m.Properties {
		w.text(p.Name, p.Value)
	}
	w.close()
	w.name("systemProperties")
	w.system(s)
	w.name("body")
	w.body(m)
	w.close()
	w.line = append(w.line, '\n')
}

// system writes the properties by the names they have in records of IoT Hub's
// storage endpoints (service-protocol 14.5), and our own in that manner.
func (w *writer) system(s *message.System) {
	w.open()
	w.some("messageId", s.MessageID)
	w.some("correlationId", s.CorrelationID)
	w.some("userId", s.UserID)
	w.some("contentType", s.ContentType)
	w.some("contentEncoding", s.ContentEncoding)
	w.some("creationTimeUtc", s.CreationTime)
	if !s.Expiry.IsZero() {
		w.time("expiryTimeUtc", s.Expiry)
	}
	w.some("messageSchema", s.Schema)
	w.some("operation", s.Operation)
	w.some("outputName", s.Output)
	w.some("interfaceId", s.InterfaceID)
	w.some("componentName", s.Component)
	w.some("modelId", s.ModelID)
	w.some("connectionDeviceGenerationId", s.Generation)
	w.some("connectionAuthMethod", s.AuthMethod)
	if !s.Enqueued.IsZero() {
		w.time("enqueuedTime", s.Enqueued)
	}
	w.close()
}

func (w *writer) open() {
	w.line = append(w.line, '{')
	w.members = 0
}

func (w *writer) close() {
	w.line = append(w.line, '}')
	w.members = 1 // the object it was in has this one at least
}

func (w *writer) name(name string) {
	if w.members > 0 {
		w.line = append(w.line, ',')
	}
	w.members++
	w.line = append(appendString(w.line, name), ':')
}

func (w *writer) text(name, value string) {
	w.name(name)
	w.line = appendString(w.line, value)
}

func (w *writer) some(name, value string) {
	if value != "" {
		w.text(name, value)
	}
}

func (w *writer) time(name string, t time.Time) {
	w.name(name)
	w.line = append(w.line, '"')
	w.line = t.UTC().AppendFormat(w.line, timeForm)
	w.line = append(w.line, '"')
}

// body writes the body as the JSON it is, else as text, else as base64 in an
// object. IoT Hub looks into bodies of application/json in UTF-8 only; here an
// object or list counts as JSON whatever its sender called it.
func (w *writer) body(m *message.Message) {
	switch {
	case !utf8.Valid(m.Body):
		w.line = append(w.line, `{"base64":"`...)
		w.line = base64.StdEncoding.AppendEncode(w.line, m.Body)
		w.line = append(w.line, `"}`...)
	case (declaresJSON(&m.System) || composite(m.Body)) && depth(m.Body) <= maxDepth && w.compacted(m.Body):
		w.line = append(w.line, w.compact.Bytes()...)
	default:
		w.line = appendString(w.line, m.Body)
	}
	if w.compact.Cap() > maxLine {
		w.compact = bytes.Buffer{}
	}
}

func (w *writer) compacted(body []byte) bool {
	w.compact.Reset()
	return json.Compact(&w.compact, body) == nil
}

func declaresJSON(s *message.System) bool {
	if s.ContentEncoding != "" && !strings.EqualFold(s.ContentEncoding, "utf-8") {
		return false
	}
	if s.ContentType == "application/json" {
		return true
	}
	kind, _, err := mime.ParseMediaType(s.ContentType)
	return err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json"))
}

// composite says whether b begins like an object or a list.
func composite(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// depth is how deep the brackets of JSON text nest.
func depth(b []byte) int {
	deepest, now := 0, 0
	quoted := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

const hex = "0123456789abcdef"

// appendString adds s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	plain := 0 // from here on is as it stands
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		width := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, width = decodeRune(s, i); r != utf8.RuneError || width > 1 {
				i += width
				continue
			}
		}
		dst = append(dst, s[plain:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < ' ':
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		default:
			dst = append(dst, "\uFFFD"...)
		}
		i += width
		plain = i
	}
	return append(append(dst, s[plain:]...), '"')
}

func decodeRune[T string | []byte](s T, at int) (rune, int) {
	var b [utf8.UTFMax]byte
	return utf8.DecodeRune(b[:copy(b[:], s[at:])])
}
