package events

import (
	"encoding/binary"
	"math/bits"

	"github.com/selvedge-io/selvedge/model/ident"
)

// logicalPartitions is the range that hashes are folded into before they are
// dealt out to the partitions there are.
const logicalPartitions = 1<<15 - 1

// PartitionOf gives the partition of a device among count as Azure does, because clients
// compute it too and listen only there: lookup3 over the upper-cased id, folded to
// 16 signed bits, cut into count ranges of which the first ones are wider by one.
func PartitionOf(device string, count int) int {
	var room [ident.MaxLength]byte
	key := room[:0]
	for i := range len(device) {
		c := device[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		key = append(key, c)
	}
	c, b := lookup3(key)
	logical := int(int16(c^b)) % logicalPartitions
	if logical < 0 {
		logical = -logical
	}
	narrow := logicalPartitions / count
	wider := logicalPartitions % count // so many ranges are narrow+1 long
	if border := wider * (narrow + 1); logical >= border {
		return wider + (logical-border)/narrow
	}
	return logical / (narrow + 1)
}

// lookup3 is Bob Jenkins' public-domain hashlittle2 with both seeds zero.
func lookup3(key []byte) (c, b uint32) {
	a := 0xdeadbeef + uint32(len(key))
	b, c = a, a
	for ; len(key) > 12; key = key[12:] {
		a += binary.LittleEndian.Uint32(key)
		b += binary.LittleEndian.Uint32(key[4:])
		c += binary.LittleEndian.Uint32(key[8:])
		a, c = (a-c)^bits.RotateLeft32(c, 4), c+b
		b, a = (b-a)^bits.RotateLeft32(a, 6), a+c
		c, b = (c-b)^bits.RotateLeft32(b, 8), b+a
		a, c = (a-c)^bits.RotateLeft32(c, 16), c+b
		b, a = (b-a)^bits.RotateLeft32(a, 19), a+c
		c, b = (c-b)^bits.RotateLeft32(b, 4), b+a
	}
	if len(key) == 0 {
		return c, b
	}
	var rest [12]byte
	copy(rest[:], key)
	a += binary.LittleEndian.Uint32(rest[:])
	b += binary.LittleEndian.Uint32(rest[4:])
	c += binary.LittleEndian.Uint32(rest[8:])
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	c = (c ^ b) - bits.RotateLeft32(b, 24)
	return c, b
}
