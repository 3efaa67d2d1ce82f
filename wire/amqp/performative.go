package amqp

import (
	"math"
	"time"
)

// Descriptors of the performatives, of SASL's frames and of what they hold.
const (
	descOpen        = 0x10
	descBegin       = 0x11
	descAttach      = 0x12
	descFlow        = 0x13
	descTransfer    = 0x14
	descDisposition = 0x15
	descDetach      = 0x16
	descEnd         = 0x17
	descClose       = 0x18
	descError       = 0x1d
	descReceived    = 0x23
	descAccepted    = 0x24
	descRejected    = 0x25
	descReleased    = 0x26
	descModified    = 0x27
	descSource      = 0x28
	descTarget      = 0x29
	descCoordinator = 0x30
	descMechanisms  = 0x40
	descInit        = 0x41
	descChallenge   = 0x42
	descResponse    = 0x43
	descOutcome     = 0x44
)

// descriptorNames are the symbolic forms, which the standard allows as well.
var descriptorNames = map[Symbol]uint64{
	"amqp:open:list": descOpen, "amqp:begin:list": descBegin, "amqp:attach:list": descAttach,
	"amqp:flow:list": descFlow, "amqp:transfer:list": descTransfer, "amqp:disposition:list": descDisposition,
	"amqp:detach:list": descDetach, "amqp:end:list": descEnd, "amqp:close:list": descClose,
	"amqp:error:list": descError, "amqp:received:list": descReceived, "amqp:accepted:list": descAccepted,
	"amqp:rejected:list": descRejected, "amqp:released:list": descReleased, "amqp:modified:list": descModified,
	"amqp:source:list": descSource, "amqp:target:list": descTarget, "amqp:coordinator:list": descCoordinator,
	"amqp:sasl-mechanisms:list": descMechanisms, "amqp:sasl-init:list": descInit,
	"amqp:sasl-challenge:list": descChallenge, "amqp:sasl-response:list": descResponse,
	"amqp:sasl-outcome:list": descOutcome,
	"amqp:header:list":       descHeader, "amqp:delivery-annotations:map": descDeliveryAnnotations,
	"amqp:message-annotations:map": descMessageAnnotations, "amqp:properties:list": descProperties,
	"amqp:application-properties:map": descApplicationProps, "amqp:data:binary": descData,
	"amqp:amqp-sequence:list": descSequence, "amqp:amqp-value:*": descValue, "amqp:footer:map": descFooter,
}

// descriptor reads the constructor of a described value and gives its number.
func (d *decoder) descriptor() uint64 {
	if len(d.b) >= 3 && d.b[0] == codeDescribed && d.b[1] == codeUlongSmall { // nearly always
		n := uint64(d.b[2])
		d.b = d.b[3:]
		return n
	}
	if code := d.byte(); code != codeDescribed {
		d.fail("0x%02x where a described value belongs", code)
		return 0
	}
	switch v := d.value().(type) {
	case uint64:
		return v
	case Symbol:
		if n, ok := descriptorNames[v]; ok {
			return n
		}
		d.fail("descriptor %q is unknown", v)
	default:
		d.fail("a descriptor is %T", v)
	}
	return 0
}

// Open is what a peer says about itself when a connection begins (2.7.1).
type Open struct {
	ContainerID         string
	Hostname            string
	MaxFrameSize        uint32 // bytes; the largest it takes
	ChannelMax          uint16 // the highest channel, one less than the sessions allowed
	IdleTimeout         time.Duration
	OutgoingLocales     []Symbol
	IncomingLocales     []Symbol
	OfferedCapabilities []Symbol
	DesiredCapabilities []Symbol
	Properties          Map
}

func (o *Open) decode(f *fields) {
	o.ContainerID = f.text()
	o.Hostname = f.text()
	o.MaxFrameSize = f.uintOr(math.MaxUint32)
	o.ChannelMax = math.MaxUint16
	if v, ok := f.ushort(); ok {
		o.ChannelMax = v
	}
	o.IdleTimeout = f.milliseconds()
	o.OutgoingLocales = f.symbols()
	o.IncomingLocales = f.symbols()
	o.OfferedCapabilities = f.symbols()
	o.DesiredCapabilities = f.symbols()
	o.Properties = f.mapping()
}

func (o *Open) encode(e *encoder) {
	at := e.composite(descOpen)
	e.string(o.ContainerID)
	e.stringOrNull(o.Hostname)
	e.uint(o.MaxFrameSize)
	e.ushort(o.ChannelMax)
	if o.IdleTimeout <= 0 {
		e.null()
	} else {
		e.milliseconds(o.IdleTimeout)
	}
	e.symbolsOrNull(o.OutgoingLocales)
	e.symbolsOrNull(o.IncomingLocales)
	e.symbolsOrNull(o.OfferedCapabilities)
	e.symbolsOrNull(o.DesiredCapabilities)
	e.mapOrNull(o.Properties)
	e.end(at, 10)
}

// begin starts a session (2.7.2).
type begin struct {
	remote         uint16 // the channel that is answered
	answers        bool   // remote is set
	nextOutgoing   uint32
	incomingWindow uint32
	outgoingWindow uint32
	handleMax      uint32
	offered        []Symbol
	desired        []Symbol
	properties     Map
}

func (b *begin) decode(f *fields) {
	b.remote, b.answers = f.ushort()
	b.nextOutgoing = f.uintOr(0)
	b.incomingWindow = f.uintOr(0)
	b.outgoingWindow = f.uintOr(0)
	b.handleMax = f.uintOr(math.MaxUint32)
	b.offered = f.symbols()
	b.desired = f.symbols()
	b.properties = f.mapping()
}

func (b *begin) encode(e *encoder) {
	at := e.composite(descBegin)
	if b.answers {
		e.ushort(b.remote)
	} else {
		e.null()
	}
	e.uint(b.nextOutgoing)
	e.uint(b.incomingWindow)
	e.uint(b.outgoingWindow)
	e.uint(b.handleMax)
	e.symbolsOrNull(b.offered)
	e.symbolsOrNull(b.desired)
	e.mapOrNull(b.properties)
	e.end(at, 8)
}

// detach, end and close each hold an error (2.7.7 to 2.7.9).
type detach struct {
	handle uint32
	closed bool
	err    *Error
}

func (p *detach) decode(f *fields) {
	p.handle = f.uintOr(0)
	p.closed = f.bool()
	p.err = f.error()
}

func (p *detach) encode(e *encoder) {
	at := e.composite(descDetach)
	e.uint(p.handle)
	e.bool(p.closed)
	e.error(p.err)
	e.end(at, 3)
}

// ending encodes an end or a close.
func (e *encoder) ending(descriptor byte, err *Error) {
	at := e.composite(descriptor)
	e.error(err)
	e.end(at, 1)
}

func (f *fields) error() *Error {
	if !f.next() {
		return nil
	}
	if n := f.descriptor(); n != descError {
		f.fail("0x%02x where an error belongs", n)
		return nil
	}
	in := f.composite()
	err := &Error{Condition: in.symbol(), Description: in.text(), Info: in.mapping()}
	f.join(&in.decoder)
	return err
}

func (e *encoder) error(err *Error) {
	if err == nil {
		e.null()
		return
	}
	at := e.composite(descError)
	e.symbol(err.Condition)
	e.stringOrNull(err.Description)
	e.mapOrNull(err.Info)
	e.end(at, 3)
}
