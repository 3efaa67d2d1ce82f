package amqp

// attach joins a link (2.7.3).
type attach struct {
	name            string
	handle          uint32
	role            Role // of who sends the frame
	sndMode         SenderSettleMode
	rcvMode         ReceiverSettleMode
	source          *Source
	target          *Target
	initialCount    uint32
	hasInitialCount bool
	maxMessageSize  uint64
	offered         []Symbol
	desired         []Symbol
	properties      Map
}

func (a *attach) decode(f *fields) {
	a.name = f.text()
	a.handle = f.uintOr(0)
	a.role = Role(f.bool())
	a.sndMode = SenderSettleMode(f.ubyteOr(uint8(SendMixed)))
	a.rcvMode = ReceiverSettleMode(f.ubyteOr(uint8(ReceiveFirst)))
	a.source = f.source()
	a.target = f.target()
	f.any() // unsettled: nothing is kept across links, so there is nothing to resume
	f.bool()
	a.initialCount, a.hasInitialCount = f.uint()
	a.maxMessageSize = f.ulong()
	a.offered = f.symbols()
	a.desired = f.symbols()
	a.properties = f.mapping()
	if a.sndMode > SendMixed || a.rcvMode > ReceiveSecond {
		f.fail("settle modes are %d and %d", a.sndMode, a.rcvMode)
	}
}

func (a *attach) encode(e *encoder) {
	at := e.composite(descAttach)
	e.string(a.name)
	e.uint(a.handle)
	e.bool(bool(a.role))
	e.ubyte(uint8(a.sndMode))
	e.ubyte(uint8(a.rcvMode))
	e.source(a.source)
	e.target(a.target)
	e.null() // unsettled
	e.bool(false)
	if a.role == RoleSender {
		e.uint(a.initialCount)
	} else {
		e.null()
	}
	e.ulong(a.maxMessageSize)
	e.symbolsOrNull(a.offered)
	e.symbolsOrNull(a.desired)
	e.mapOrNull(a.properties)
	e.end(at, 14)
}

// flow tells the state of a session and, with a handle, of a link (2.7.4).
type flow struct {
	nextIncoming    uint32
	hasNextIncoming bool
	incomingWindow  uint32
	nextOutgoing    uint32
	outgoingWindow  uint32
	handle          uint32
	hasHandle       bool
	count           uint32 // delivery-count
	hasCount        bool
	credit          uint32
	hasCredit       bool
	available       uint32
	drain           bool
	echo            bool
}

func (p *flow) decode(f *fields) {
	p.nextIncoming, p.hasNextIncoming = f.uint()
	p.incomingWindow = f.uintOr(0)
	p.nextOutgoing = f.uintOr(0)
	p.outgoingWindow = f.uintOr(0)
	p.handle, p.hasHandle = f.uint()
	p.count, p.hasCount = f.uint()
	p.credit, p.hasCredit = f.uint()
	p.available = f.uintOr(0)
	p.drain = f.bool()
	p.echo = f.bool()
}

func (p *flow) encode(e *encoder) {
	at := e.composite(descFlow)
	e.uintIf(p.hasNextIncoming, p.nextIncoming)
	e.uint(p.incomingWindow)
	e.uint(p.nextOutgoing)
	e.uint(p.outgoingWindow)
	e.uintIf(p.hasHandle, p.handle)
	e.uintIf(p.hasCount, p.count)
	e.uintIf(p.hasCredit, p.credit)
	e.uintIf(p.hasHandle, p.available)
	e.bool(p.drain)
	e.bool(p.echo)
	e.null() // properties
	e.end(at, 11)
}

func (e *encoder) uintIf(there bool, v uint32) {
	if there {
		e.uint(v)
	} else {
		e.null()
	}
}

// transfer carries a message or a part of one (2.7.5).
type transfer struct {
	handle    uint32
	id        uint32
	hasID     bool
	tag       []byte
	hasTag    bool
	format    uint32
	settled   bool
	more      bool
	aborted   bool
	batchable bool
}

func (p *transfer) decode(f *fields) {
	p.handle = f.uintOr(0)
	p.id, p.hasID = f.uint()
	p.tag = f.binary()
	p.hasTag = p.tag != nil
	p.format = f.uintOr(0)
	p.settled = f.bool()
	p.more = f.bool()
	f.ubyteOr(0) // rcv-settle-mode
	f.state()
	f.bool() // resume
	p.aborted = f.bool()
	p.batchable = f.bool()
}

func (p *transfer) encode(e *encoder) {
	at := e.composite(descTransfer)
	e.uint(p.handle)
	e.uintIf(p.hasID, p.id)
	if p.hasTag {
		e.binary(p.tag)
	} else {
		e.null()
	}
	e.uintIf(p.hasID, p.format)
	e.bool(p.settled)
	e.bool(p.more)
	e.null() // rcv-settle-mode
	e.null() // state
	e.bool(false)
	e.bool(p.aborted)
	e.bool(p.batchable)
	e.end(at, 11)
}

// disposition tells the state of deliveries first to last (2.7.6).
type disposition struct {
	role        Role
	first, last uint32
	settled     bool
	state       State
}

func (p *disposition) decode(f *fields) {
	p.role = Role(f.bool())
	p.first = f.uintOr(0)
	p.last = f.uintOr(p.first)
	p.settled = f.bool()
	p.state = f.state()
	f.bool() // batchable
}

func (p *disposition) encode(e *encoder) {
	at := e.composite(descDisposition)
	e.bool(bool(p.role))
	e.uint(p.first)
	e.uint(p.last)
	e.bool(p.settled)
	p.state.encode(e)
	e.bool(false)
	e.end(at, 6)
}
