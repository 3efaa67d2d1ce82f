package message

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// The stored form is a version byte, then fields as tag, length, bytes, then the
// body under its own tag. Absent fields take no room; unknown tags are skipped, so
// an older program reads what a newer one wrote. Numbers are uvarints.
const codecVersion = 1

const (
	tagBody = iota + 1
	tagProperty
	tagMessageID
	tagCorrelationID
	tagUserID
	tagTo
	tagContentType
	tagContentEncoding
	tagCreationTime
	tagExpiry
	tagSchema
	tagOperation
	tagAck
	tagOutput
	tagInterfaceID
	tagComponent
	tagInput
	tagConnectionDevice
	tagConnectionModule
	tagGeneration
	tagAuthMethod
	tagModelID
	tagSource
	tagEnqueued
	tagSequence
	tagDeliveryCount
	tagLockToken
)

var errMalformed = errors.New("malformed stored message")

// Append adds the stored form of m to dst.
func (m *Message) Append(dst []byte) []byte {
	s := &m.System
	dst = append(dst, codecVersion)
	dst = appendText(dst, tagMessageID, s.MessageID)
	dst = appendText(dst, tagCorrelationID, s.CorrelationID)
	dst = appendText(dst, tagUserID, s.UserID)
	dst = appendText(dst, tagTo, s.To)
	dst = appendText(dst, tagContentType, s.ContentType)
	dst = appendText(dst, tagContentEncoding, s.ContentEncoding)
	dst = appendText(dst, tagCreationTime, s.CreationTime)
	dst = appendTime(dst, tagExpiry, s.Expiry)
	dst = appendText(dst, tagSchema, s.Schema)
	dst = appendText(dst, tagOperation, s.Operation)
	dst = appendText(dst, tagAck, s.Ack)
	dst = appendText(dst, tagOutput, s.Output)
	dst = appendText(dst, tagInterfaceID, s.InterfaceID)
	dst = appendText(dst, tagComponent, s.Component)
	dst = appendText(dst, tagInput, s.Input)
	dst = appendText(dst, tagConnectionDevice, s.ConnectionDevice)
	dst = appendText(dst, tagConnectionModule, s.ConnectionModule)
	dst = appendText(dst, tagGeneration, s.Generation)
	dst = appendText(dst, tagAuthMethod, s.AuthMethod)
	dst = appendText(dst, tagModelID, s.ModelID)
	dst = appendText(dst, tagSource, s.Source)
	dst = appendTime(dst, tagEnqueued, s.Enqueued)
	dst = appendNumber(dst, tagSequence, s.Sequence)
	dst = appendNumber(dst, tagDeliveryCount, uint64(s.DeliveryCount))
	dst = appendText(dst, tagLockToken, s.LockToken)
	for _, p := range m.Properties {
		dst = append(dst, tagProperty)
		dst = binary.AppendUvarint(dst, uint64(uvarintLen(uint64(len(p.Name)))+len(p.Name)+len(p.Value)))
		dst = binary.AppendUvarint(dst, uint64(len(p.Name)))
		dst = append(dst, p.Name...)
		dst = append(dst, p.Value...)
	}
	dst = append(dst, tagBody)
	dst = binary.AppendUvarint(dst, uint64(len(m.Body)))
	return append(dst, m.Body...)
}

func uvarintLen(n uint64) int {
	length := 1
	for ; n >= 0x80; n >>= 7 {
		length++
	}
	return length
}

func appendText(dst []byte, tag byte, s string) []byte {
	if s == "" {
		return dst
	}
	dst = binary.AppendUvarint(append(dst, tag), uint64(len(s)))
	return append(dst, s...)
}

func appendNumber(dst []byte, tag byte, n uint64) []byte {
	if n == 0 {
		return dst
	}
	dst = append(dst, tag, byte(uvarintLen(n)))
	return binary.AppendUvarint(dst, n)
}

// appendTime keeps a time to the nanosecond, in UTC, as seconds and the rest: a
// sender may mean the year 9999 by "never", which nanoseconds alone cannot say.
func appendTime(dst []byte, tag byte, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	var b [2 * binary.MaxVarintLen64]byte
	n := binary.PutVarint(b[:], t.Unix())
	n += binary.PutUvarint(b[n:], uint64(t.Nanosecond()))
	return append(append(dst, tag, byte(n)), b[:n]...)
}

// Decode reads the stored form. The body and the strings of m point into b, so m
// is valid as long as b is unchanged; Clone makes one that lasts. The slice of
// properties is reused.
func (m *Message) Decode(b []byte) error {
	*m = Message{Properties: m.Properties[:0]}
	if len(b) == 0 || b[0] != codecVersion {
		return errMalformed
	}
	for b = b[1:]; len(b) > 0; {
		tag := b[0]
		n, width := binary.Uvarint(b[1:])
		if width <= 0 || n > uint64(len(b)-1-width) {
			return errMalformed
		}
		field := b[1+width : 1+width+int(n)]
		b = b[1+width+int(n):]
		if err := m.set(tag, field); err != nil {
			return err
		}
	}
	return nil
}

func (m *Message) set(tag byte, field []byte) error {
	s := &m.System
	switch tag {
	case tagBody:
		m.Body = field
	case tagProperty:
		n, width := binary.Uvarint(field)
		if width <= 0 || n > uint64(len(field)-width) {
			return errMalformed
		}
		name, value := field[width:width+int(n)], field[width+int(n):]
		m.Properties = append(m.Properties, Property{Name: alias(name), Value: alias(value)})
	case tagExpiry:
		return setTime(&s.Expiry, field)
	case tagEnqueued:
		return setTime(&s.Enqueued, field)
	case tagSequence:
		return setNumber(&s.Sequence, field)
	case tagDeliveryCount:
		var n uint64
		err := setNumber(&n, field)
		s.DeliveryCount = uint8(min(n, 255))
		return err
	default:
		if to := m.text(tag); to != nil {
			*to = alias(field)
		}
	}
	return nil
}

// text is where the string of a tag is kept; nil for tags we do not know.
func (m *Message) text(tag byte) *string {
	s := &m.System
	switch tag {
	case tagMessageID:
		return &s.MessageID
	case tagCorrelationID:
		return &s.CorrelationID
	case tagUserID:
		return &s.UserID
	case tagTo:
		return &s.To
	case tagContentType:
		return &s.ContentType
	case tagContentEncoding:
		return &s.ContentEncoding
	case tagCreationTime:
		return &s.CreationTime
	case tagSchema:
		return &s.Schema
	case tagOperation:
		return &s.Operation
	case tagAck:
		return &s.Ack
	case tagOutput:
		return &s.Output
	case tagInterfaceID:
		return &s.InterfaceID
	case tagComponent:
		return &s.Component
	case tagInput:
		return &s.Input
	case tagConnectionDevice:
		return &s.ConnectionDevice
	case tagConnectionModule:
		return &s.ConnectionModule
	case tagGeneration:
		return &s.Generation
	case tagAuthMethod:
		return &s.AuthMethod
	case tagModelID:
		return &s.ModelID
	case tagSource:
		return &s.Source
	case tagLockToken:
		return &s.LockToken
	}
	return nil
}

// alias is a string over b, without a copy: the hot path decodes every message
// that a module receives.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func setNumber(to *uint64, field []byte) error {
	n, width := binary.Uvarint(field)
	if width <= 0 {
		return errMalformed
	}
	*to = n
	return nil
}

func setTime(to *time.Time, field []byte) error {
	sec, width := binary.Varint(field)
	if width <= 0 {
		return errMalformed
	}
	nsec, rest := binary.Uvarint(field[width:])
	if rest <= 0 || nsec >= uint64(time.Second) {
		return errMalformed
	}
	*to = time.Unix(sec, int64(nsec)).UTC()
	return nil
}

// Clone copies m so that nothing of it points into a buffer.
func (m *Message) Clone() Message {
	out := Message{Body: slices.Clone(m.Body), System: m.System, Properties: slices.Clone(m.Properties)}
	var texts strings.Builder // one allocation for all of them
	n := 0
	out.eachText(func(s *string) { n += len(*s) })
	texts.Grow(n)
	out.eachText(func(s *string) {
		start := texts.Len()
		texts.WriteString(*s)
		*s = texts.String()[start:]
	})
	return out
}

func (m *Message) eachText(visit func(*string)) {
	for tag := byte(tagMessageID); tag <= tagLockToken; tag++ {
		if s := m.text(tag); s != nil && *s != "" {
			visit(s)
		}
	}
	for i := range m.Properties {
		visit(&m.Properties[i].Name)
		visit(&m.Properties[i].Value)
	}
}
