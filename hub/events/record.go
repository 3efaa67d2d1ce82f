package events

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
)

// A record is a version byte, the sequence number and the enqueued time in
// milliseconds since 1970 (8 bytes each, little endian), then the message in its
// stored form.
const (
	recordVersion = 1
	headSize      = 1 + 8 + 8
)

var errRecord = errors.New("malformed stored event")

// Event is one event of a partition.
type Event struct {
	Partition int
	Offset    int64     // place in the partition's log; on the wire as decimal text
	Sequence  int64     // from 0, always growing
	Enqueued  time.Time // to the millisecond, UTC, never before the event before
	Message   message.Message
}

func appendHead(dst []byte, sequence, millis int64) []byte {
	dst = append(dst, recordVersion)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(sequence))
	return binary.LittleEndian.AppendUint64(dst, uint64(millis))
}

func parseHead(b []byte) (sequence, millis int64, err error) {
	if len(b) < headSize || b[0] != recordVersion {
		return 0, 0, errRecord
	}
	return int64(binary.LittleEndian.Uint64(b[1:])), int64(binary.LittleEndian.Uint64(b[9:])), nil
}

// decode reads a record but for its place. The message points into b.
func (e *Event) decode(b []byte) error {
	sequence, millis, err := parseHead(b)
	if err != nil {
		return err
	}
	e.Sequence, e.Enqueued = sequence, time.UnixMilli(millis).UTC()
	return e.Message.Decode(b[headSize:])
}
