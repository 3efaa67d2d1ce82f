package amqp

import "time"

// Builder encodes a message section by section, for those who send so many that maps
// of values would cost too much: once its buffer has grown it allocates nothing. The
// sections are to be written in the standard's order (3.2), each once; one that would
// be empty is left out. The zero Builder is ready for use.
type Builder struct {
	enc     encoder
	start   int // of the map section that is open
	at      int // of its map
	count   int // of its keys and values
	symbols bool
}

// Reset begins another message in the same buffer.
func (b *Builder) Reset() { b.enc = encoder{b: b.enc.b[:0]} }

// Bytes is the message so far, valid until Reset. The error wraps ErrType.
func (b *Builder) Bytes() ([]byte, error) { return b.enc.b, b.enc.err }

// DeliveryAnnotations opens that section; End closes it.
func (b *Builder) DeliveryAnnotations() { b.open(descDeliveryAnnotations, true) }

// Annotations opens the section of message annotations; End closes it.
func (b *Builder) Annotations() { b.open(descMessageAnnotations, true) }

// ApplicationProperties opens that section; End closes it.
func (b *Builder) ApplicationProperties() { b.open(descApplicationProps, false) }

func (b *Builder) open(descriptor byte, symbols bool) {
	b.start, b.count, b.symbols = len(b.enc.b), 0, symbols
	b.enc.b = append(b.enc.b, codeDescribed, codeUlongSmall, descriptor)
	b.at = b.enc.begin(codeMap8)
}

// End closes the map section that is open.
func (b *Builder) End() {
	if b.count == 0 {
		b.enc.b = b.enc.b[:b.start]
		return
	}
	b.enc.end(b.at, b.count)
}

func (b *Builder) key(name string) {
	if b.symbols {
		b.enc.symbol(Symbol(name))
	} else {
		b.enc.string(name)
	}
	b.count += 2
}

// Text adds a string to the open section.
func (b *Builder) Text(key, v string) {
	b.key(key)
	b.enc.string(v)
}

// Long adds a long integer to the open section.
func (b *Builder) Long(key string, v int64) {
	b.key(key)
	b.enc.long(v)
}

// Ulong adds an unsigned long integer to the open section.
func (b *Builder) Ulong(key string, v uint64) {
	b.key(key)
	b.enc.ulong(v)
}

// Ubyte adds an unsigned byte to the open section.
func (b *Builder) Ubyte(key string, v uint8) {
	b.key(key)
	b.enc.ubyte(v)
}

// Time adds a timestamp, in whole milliseconds, to the open section.
func (b *Builder) Time(key string, v time.Time) {
	b.key(key)
	b.enc.timestamp(v)
}

// Properties writes that section.
func (b *Builder) Properties(p *Properties) { p.encode(&b.enc) }

// Data writes a data section.
func (b *Builder) Data(v []byte) {
	b.enc.b = append(b.enc.b, codeDescribed, codeUlongSmall, descData)
	b.enc.binary(v)
}
