package amqp

// Outcome is what became of a delivery (3.4).
type Outcome uint8

// The outcomes.
const (
	NoOutcome Outcome = iota
	Accepted
	Rejected
	Released
	Modified
	// Lost is not of the wire: the link went before the peer said anything.
	Lost
	received // not final, and of use for resuming only
	foreign  // some other described state
)

// String is the standard's name of the outcome.
func (o Outcome) String() string {
	switch o {
	case NoOutcome:
		return "none"
	case Accepted:
		return "accepted"
	case Rejected:
		return "rejected"
	case Released:
		return "released"
	case Modified:
		return "modified"
	case Lost:
		return "lost"
	}
	return "other"
}

// State is an outcome with what belongs to it.
type State struct {
	Outcome           Outcome
	Error             *Error // of Rejected
	DeliveryFailed    bool   // of Modified
	UndeliverableHere bool   // of Modified
	Annotations       Map    // of Modified
}

// plain says whether the state is an outcome and nothing else, so that dispositions
// can be joined.
func (s *State) plain() bool {
	return s.Error == nil && !s.DeliveryFailed && !s.UndeliverableHere && s.Annotations == nil
}

// state reads a delivery state.
func (f *fields) state() State {
	if !f.next() {
		return State{}
	}
	n := f.descriptor()
	if n < descReceived || n > descModified {
		f.value() // of transactions or a vendor
		return State{Outcome: foreign}
	}
	in := f.composite()
	var s State
	switch n {
	case descReceived:
		s.Outcome = received
	case descAccepted:
		s.Outcome = Accepted
	case descRejected:
		s.Outcome = Rejected
		s.Error = in.error()
	case descReleased:
		s.Outcome = Released
	case descModified:
		s.Outcome = Modified
		s.DeliveryFailed = in.bool()
		s.UndeliverableHere = in.bool()
		s.Annotations = in.mapping()
	}
	f.join(&in.decoder)
	return s
}

func (s *State) encode(e *encoder) {
	switch s.Outcome {
	case Accepted:
		e.end(e.composite(descAccepted), 0)
	case Rejected:
		at := e.composite(descRejected)
		e.error(s.Error)
		e.end(at, 1)
	case Released:
		e.end(e.composite(descReleased), 0)
	case Modified:
		at := e.composite(descModified)
		e.bool(s.DeliveryFailed)
		e.bool(s.UndeliverableHere)
		e.mapOrNull(s.Annotations)
		e.end(at, 3)
	default:
		e.null()
	}
}
