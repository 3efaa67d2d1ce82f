package amqp

import "math/bits"

// ids hands out the lowest free number, as channels and handles should be low.
type ids []uint64

func (s *ids) take() uint32 {
	for i, word := range *s {
		if word != ^uint64(0) {
			n := bits.TrailingZeros64(^word)
			(*s)[i] |= 1 << n
			return uint32(64*i + n)
		}
	}
	*s = append(*s, 1)
	return uint32(64 * (len(*s) - 1))
}

func (s ids) release(n uint32) { s[n/64] &^= 1 << (n % 64) }
