package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A segment file is a header and then records up to its end or to the first zero
// length, since the room for more may be reserved already.
//
//	header  magic (8) · base offset (8) · salt (4) · CRC-32C of these (4)
//	record  length of the payload + 1 (4) · CRC-32C (4) · payload
//
// All numbers are little endian. The CRC of a record starts from the salt and the
// record's offset, so that bytes which only look like a record, by chance or
// because a sender put them into a body, are not taken for one.
const (
	magic        = "SVLOG\x00\x00\x01" // the last byte is the version
	headerSize   = 24
	recordHeader = 8
	extension    = ".log"
	sidecar      = ".idx"
	damaged      = ".damaged"
)

// MaxRecord is the longest payload, in bytes.
const MaxRecord = 64 << 20

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.LittleEndian

	errHeader = errors.New("not a segment header")
	errRecord = errors.New("record fails its checksum")
	errShort  = errors.New("record is cut off")
)

func fileName(base Offset, ext string) string { return fmt.Sprintf("%020d%s", base, ext) }

func parseName(name, ext string) (Offset, bool) {
	digits, ok := strings.CutSuffix(name, ext)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	return Offset(n), err == nil
}

func appendHeader(dst []byte, base Offset, salt uint32) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = order.AppendUint64(dst, uint64(base))
	dst = order.AppendUint32(dst, salt)
	return order.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func parseHeader(b []byte, base Offset) (salt uint32, err error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic ||
		Offset(order.Uint64(b[8:])) != base || order.Uint32(b[20:]) != crc32.Checksum(b[:20], castagnoli) {
		return 0, errHeader
	}
	return order.Uint32(b[16:]), nil
}

func checksum(salt uint32, at Offset, length, payload []byte) uint32 {
	c := crc32.Update(salt^uint32(at)^uint32(at>>32), castagnoli, length)
	return crc32.Update(c, castagnoli, payload)
}

// finish writes the header of the record that fills b, given 8 bytes of room for it.
func finish(b []byte, salt uint32, at Offset) {
	order.PutUint32(b, uint32(len(b)-recordHeader+1))
	order.PutUint32(b[4:], checksum(salt, at, b[:4], b[recordHeader:]))
}

// parseRecord reads the record at the start of b, which stands at offset at. It
// gives nil and no error at the end of the data, and errShort with the size the
// record needs when b is too small for it.
func parseRecord(b []byte, salt uint32, at Offset) (payload []byte, size int, err error) {
	if len(b) < recordHeader {
		return nil, recordHeader, errShort
	}
	length := order.Uint32(b)
	if length == 0 {
		return nil, 0, nil
	}
	if length-1 > MaxRecord {
		return nil, 0, errRecord
	}
	size = recordHeader + int(length-1)
	if len(b) < size {
		return nil, size, errShort
	}
	payload = b[recordHeader:size:size]
	if order.Uint32(b[4:]) != checksum(salt, at, b[:4], payload) {
		return nil, size, errRecord
	}
	return payload, size, nil
}
