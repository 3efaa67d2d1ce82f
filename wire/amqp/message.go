package amqp

import (
	"slices"
	"time"
)

// BatchFormat is the message-format of a batch: each data section holds one whole
// encoded message. Other formats but zero have no meaning here either; the format
// passes through.
const BatchFormat uint32 = 0x80013700

// Header says how a message is to be handled on its way (3.2.1).
type Header struct {
	Durable       bool
	Priority      uint8         // 0: not given, which means 4
	TTL           time.Duration // whole milliseconds; 0: not given
	FirstAcquirer bool
	DeliveryCount uint32
}

// Properties are a message's immutable ones (3.2.4). Zero values are absent.
type Properties struct {
	MessageID          any // string, UUID, uint64 or []byte
	UserID             []byte
	To                 string
	Subject            string
	ReplyTo            string
	CorrelationID      any // string, UUID, uint64 or []byte
	ContentType        Symbol
	ContentEncoding    Symbol
	AbsoluteExpiryTime time.Time
	CreationTime       time.Time
	GroupID            string
	GroupSequence      uint32
	ReplyToGroupID     string
}

// Message is a message with its sections (3.2). It has a body of data sections, of
// sequence sections, or one value; Data is what most have.
type Message struct {
	Header                Header
	DeliveryAnnotations   Map
	Annotations           Map // keys are symbols
	Properties            Properties
	ApplicationProperties Map // keys are strings
	Data                  [][]byte
	Sequences             [][]any
	Value                 any
	HasValue              bool // the body is Value, which may be nil
	Footer                Map
}

// Body is all data sections in one. With a single section, it aliases that.
func (m *Message) Body() []byte {
	if len(m.Data) == 1 {
		return m.Data[0]
	}
	return slices.Concat(m.Data...)
}

// Descriptors of the sections.
const (
	descHeader              = 0x70
	descDeliveryAnnotations = 0x71
	descMessageAnnotations  = 0x72
	descProperties          = 0x73
	descApplicationProps    = 0x74
	descData                = 0x75
	descSequence            = 0x76
	descValue               = 0x77
	descFooter              = 0x78
)

// Decode reads an encoded message over m, whose Data it uses again. All binary values
// and data sections alias b. Errors wrap ErrMalformed.
func (m *Message) Decode(b []byte) error {
	*m = Message{Data: m.Data[:0]}
	d := decoder{b: b}
	last := uint64(0)
	for len(d.b) > 0 && d.err == nil {
		section := d.descriptor()
		repeats := section == last && (section == descData || section == descSequence)
		if section <= last && !repeats && d.err == nil {
			d.fail("section 0x%02x comes after 0x%02x", section, last)
		}
		m.section(section, &d)
		last = section
	}
	bodies := 0
	for _, has := range []bool{len(m.Data) > 0, len(m.Sequences) > 0, m.HasValue} {
		if has {
			bodies++
		}
	}
	if bodies > 1 {
		d.fail("a message has bodies of %d kinds", bodies)
	}
	return d.err
}

func (m *Message) section(section uint64, d *decoder) {
	switch section {
	case descHeader:
		f := d.composite()
		m.Header.decode(&f)
		d.join(&f.decoder)
	case descDeliveryAnnotations:
		m.DeliveryAnnotations = d.sectionMap()
	case descMessageAnnotations:
		m.Annotations = d.sectionMap()
	case descProperties:
		f := d.composite()
		m.Properties.decode(&f)
		d.join(&f.decoder)
	case descApplicationProps:
		m.ApplicationProperties = d.sectionMap()
	case descData:
		switch code := d.byte(); code {
		case codeBinary8, codeBinary32:
			m.Data = append(m.Data, d.variable(code))
		default:
			d.fail("a data section is 0x%02x", code)
		}
	case descSequence:
		l, ok := d.value().([]any)
		if !ok {
			d.fail("a sequence section is no list")
		}
		m.Sequences = append(m.Sequences, l)
	case descValue:
		m.Value, m.HasValue = d.value(), true
	case descFooter:
		m.Footer = d.sectionMap()
	default:
		d.fail("there is no section 0x%02x", section)
	}
}

func (h *Header) decode(f *fields) {
	*h = Header{
		Durable:       f.bool(),
		Priority:      f.ubyteOr(0),
		TTL:           f.milliseconds(),
		FirstAcquirer: f.bool(),
		DeliveryCount: f.uintOr(0),
	}
}

func (d *decoder) sectionMap() Map {
	switch v := d.value().(type) {
	case Map:
		return v
	case nil:
	default:
		d.fail("a section is %T where a map belongs", v)
	}
	return nil
}

func (p *Properties) decode(f *fields) {
	p.MessageID = f.id()
	p.UserID = f.binary()
	p.To = f.text()
	p.Subject = f.text()
	p.ReplyTo = f.text()
	p.CorrelationID = f.id()
	p.ContentType = f.symbol()
	p.ContentEncoding = f.symbol()
	p.AbsoluteExpiryTime = f.timestamp()
	p.CreationTime = f.timestamp()
	p.GroupID = f.text()
	p.GroupSequence = f.uintOr(0)
	p.ReplyToGroupID = f.text()
}

// id reads a message id. Other types than the standard's four come as they are,
// since an id is there to be echoed.
func (f *fields) id() any { return f.any() }

// Append encodes m behind dst. The error wraps ErrType; dst is unchanged then.
func (m *Message) Append(dst []byte) ([]byte, error) {
	e := encoder{b: dst}
	m.Header.encode(&e)
	e.section(descDeliveryAnnotations, m.DeliveryAnnotations)
	e.section(descMessageAnnotations, m.Annotations)
	m.Properties.encode(&e)
	e.section(descApplicationProps, m.ApplicationProperties)
	for _, b := range m.Data {
		e.b = append(e.b, codeDescribed, codeUlongSmall, descData)
		e.binary(b)
	}
	for _, l := range m.Sequences {
		e.b = append(e.b, codeDescribed, codeUlongSmall, descSequence)
		e.list(l)
	}
	if m.HasValue {
		e.b = append(e.b, codeDescribed, codeUlongSmall, descValue)
		e.value(m.Value)
	}
	e.section(descFooter, m.Footer)
	if e.err != nil {
		return dst, e.err
	}
	return e.b, nil
}

func (e *encoder) section(descriptor byte, m Map) {
	if len(m) > 0 {
		e.b = append(e.b, codeDescribed, codeUlongSmall, descriptor)
		e.mapping(m)
	}
}

func (h *Header) encode(e *encoder) {
	if *h == (Header{}) {
		return
	}
	at := e.composite(descHeader)
	e.bool(h.Durable)
	if h.Priority == 0 {
		e.null()
	} else {
		e.ubyte(h.Priority)
	}
	if h.TTL <= 0 {
		e.null()
	} else {
		e.milliseconds(h.TTL)
	}
	e.bool(h.FirstAcquirer)
	e.uint(h.DeliveryCount)
	e.end(at, 5)
}

func (p *Properties) absent() bool {
	return p.MessageID == nil && len(p.UserID) == 0 && p.To == "" && p.Subject == "" && p.ReplyTo == "" &&
		p.CorrelationID == nil && p.ContentType == "" && p.ContentEncoding == "" &&
		p.AbsoluteExpiryTime.IsZero() && p.CreationTime.IsZero() &&
		p.GroupID == "" && p.GroupSequence == 0 && p.ReplyToGroupID == ""
}

func (p *Properties) encode(e *encoder) {
	if p.absent() {
		return
	}
	at := e.composite(descProperties)
	e.value(p.MessageID)
	if len(p.UserID) == 0 {
		e.null()
	} else {
		e.binary(p.UserID)
	}
	e.stringOrNull(p.To)
	e.stringOrNull(p.Subject)
	e.stringOrNull(p.ReplyTo)
	e.value(p.CorrelationID)
	e.symbolOrNull(p.ContentType)
	e.symbolOrNull(p.ContentEncoding)
	e.timestampOrNull(p.AbsoluteExpiryTime)
	e.timestampOrNull(p.CreationTime)
	e.stringOrNull(p.GroupID)
	if p.GroupSequence == 0 {
		e.null()
	} else {
		e.uint(p.GroupSequence)
	}
	e.stringOrNull(p.ReplyToGroupID)
	e.end(at, 13)
}
