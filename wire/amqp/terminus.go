package amqp

// Source is where a link's messages come from (3.5.3). What was decoded can be
// echoed unchanged.
type Source struct {
	Address               string // "" is null
	Durable               uint32
	ExpiryPolicy          Symbol
	Timeout               uint32 // seconds
	Dynamic               bool
	DynamicNodeProperties Map
	DistributionMode      Symbol
	Filter                Map // by symbol; the values are Described as a rule
	DefaultOutcome        any
	Outcomes              []Symbol
	Capabilities          []Symbol
}

// Target is where a link's messages go (3.5.4).
type Target struct {
	Address               string // "" is null
	Durable               uint32
	ExpiryPolicy          Symbol
	Timeout               uint32 // seconds
	Dynamic               bool
	DynamicNodeProperties Map
	Capabilities          []Symbol
	coordinator           bool // of transactions, which are not supported
}

// address reads an address; those that are not text are none that we could know.
func (f *fields) address() string {
	switch v := f.any().(type) {
	case string:
		return v
	case Symbol:
		return string(v)
	}
	return ""
}

func (f *fields) source() *Source {
	if !f.next() {
		return nil
	}
	if n := f.descriptor(); n != descSource {
		f.fail("0x%02x where a source belongs", n)
		return nil
	}
	in := f.composite()
	s := &Source{
		Address:               in.address(),
		Durable:               in.uintOr(0),
		ExpiryPolicy:          in.symbol(),
		Timeout:               in.uintOr(0),
		Dynamic:               in.bool(),
		DynamicNodeProperties: in.mapping(),
		DistributionMode:      in.symbol(),
		Filter:                in.mapping(),
		DefaultOutcome:        in.any(),
		Outcomes:              in.symbols(),
		Capabilities:          in.symbols(),
	}
	f.join(&in.decoder)
	return s
}

func (e *encoder) source(s *Source) {
	if s == nil {
		e.null()
		return
	}
	at := e.composite(descSource)
	e.stringOrNull(s.Address)
	e.uint(s.Durable)
	e.symbolOrNull(s.ExpiryPolicy)
	e.uint(s.Timeout)
	e.bool(s.Dynamic)
	e.mapOrNull(s.DynamicNodeProperties)
	e.symbolOrNull(s.DistributionMode)
	e.mapOrNull(s.Filter)
	e.value(s.DefaultOutcome)
	e.symbolsOrNull(s.Outcomes)
	e.symbolsOrNull(s.Capabilities)
	e.end(at, 11)
}

func (f *fields) target() *Target {
	if !f.next() {
		return nil
	}
	switch n := f.descriptor(); n {
	case descTarget:
	case descCoordinator:
		f.value()
		return &Target{coordinator: true}
	default:
		f.fail("0x%02x where a target belongs", n)
		return nil
	}
	in := f.composite()
	t := &Target{
		Address:               in.address(),
		Durable:               in.uintOr(0),
		ExpiryPolicy:          in.symbol(),
		Timeout:               in.uintOr(0),
		Dynamic:               in.bool(),
		DynamicNodeProperties: in.mapping(),
		Capabilities:          in.symbols(),
	}
	f.join(&in.decoder)
	return t
}

func (e *encoder) target(t *Target) {
	if t == nil {
		e.null()
		return
	}
	at := e.composite(descTarget)
	e.stringOrNull(t.Address)
	e.uint(t.Durable)
	e.symbolOrNull(t.ExpiryPolicy)
	e.uint(t.Timeout)
	e.bool(t.Dynamic)
	e.mapOrNull(t.DynamicNodeProperties)
	e.symbolsOrNull(t.Capabilities)
	e.end(at, 7)
}
