// Package amqp is a peer of AMQP 1.0 for both roles, server and client: values,
// messages, framing, SASL, and the state machines of connections, sessions and
// links. It knows no address, token or message of anybody's; what links mean is
// decided by the Handler above.
//
// A connection costs one goroutine, its reader, however many sessions and links it
// carries, and one more while there is something to write. The reader calls the
// Handler and the links' events, which therefore must not block; the methods of
// connections, sessions and links may be called from any goroutine, from within
// events too, and never wait, save those that take a context. Everything a peer can
// make grow has a limit in Config.
//
// Source of all formats: OASIS AMQP 1.0, parts 1 (types), 2 (transport),
// 3 (messaging) and 5 (security). Where real clients want more than the standard,
// the comments say so: performatives are written with every field, nulls included,
// and lists never in their zero-length form, since one client reads by position.
package amqp

import (
	"errors"
	"fmt"
)

// Error conditions of the standard (2.8.15 to 2.8.18).
const (
	ErrInternal           Symbol = "amqp:internal-error"
	ErrNotFound           Symbol = "amqp:not-found"
	ErrUnauthorized       Symbol = "amqp:unauthorized-access"
	ErrDecode             Symbol = "amqp:decode-error"
	ErrResourceLimit      Symbol = "amqp:resource-limit-exceeded"
	ErrNotAllowed         Symbol = "amqp:not-allowed"
	ErrInvalidField       Symbol = "amqp:invalid-field"
	ErrNotImplemented     Symbol = "amqp:not-implemented"
	ErrResourceLocked     Symbol = "amqp:resource-locked"
	ErrPrecondition       Symbol = "amqp:precondition-failed"
	ErrResourceDeleted    Symbol = "amqp:resource-deleted"
	ErrIllegalState       Symbol = "amqp:illegal-state"
	ErrFrameSizeTooSmall  Symbol = "amqp:frame-size-too-small"
	ErrConnectionForced   Symbol = "amqp:connection:forced"
	ErrFraming            Symbol = "amqp:connection:framing-error"
	ErrConnectionRedirect Symbol = "amqp:connection:redirect"
	ErrWindowViolation    Symbol = "amqp:session:window-violation"
	ErrErrantLink         Symbol = "amqp:session:errant-link"
	ErrHandleInUse        Symbol = "amqp:session:handle-in-use"
	ErrUnattachedHandle   Symbol = "amqp:session:unattached-handle"
	ErrDetachForced       Symbol = "amqp:link:detach-forced"
	ErrTransferLimit      Symbol = "amqp:link:transfer-limit-exceeded"
	ErrMessageSize        Symbol = "amqp:link:message-size-exceeded"
	ErrLinkRedirect       Symbol = "amqp:link:redirect"
	ErrStolen             Symbol = "amqp:link:stolen"
)

// Errors of this side's own.
var (
	ErrMalformed = errors.New("malformed AMQP data")
	ErrClosed    = errors.New("AMQP connection is closed")
	ErrEnded     = errors.New("AMQP session has ended")
	ErrDetached  = errors.New("AMQP link is detached")
	ErrNotReady  = errors.New("AMQP link cannot take a message now")
	ErrTooLarge  = errors.New("message is larger than the AMQP peer takes")
	ErrType      = errors.New("value has no AMQP type")
)

// Error is why a peer closed a connection, ended a session, detached a link or
// rejected a delivery (2.8.14).
type Error struct {
	Condition   Symbol
	Description string
	Info        Map // keys are symbols
}

// Error implements error.
func (e *Error) Error() string {
	if e.Description == "" {
		return string(e.Condition)
	}
	return string(e.Condition) + ": " + e.Description
}

func errorf(condition Symbol, format string, args ...any) *Error {
	return &Error{Condition: condition, Description: fmt.Sprintf(format, args...)}
}

// Role is which end of a link this side is. It is written as a boolean, true for
// the receiver.
type Role bool

// The two ends of a link.
const (
	RoleSender   Role = false
	RoleReceiver Role = true
)

// String names the role.
func (r Role) String() string {
	if r == RoleReceiver {
		return "receiver"
	}
	return "sender"
}

// SenderSettleMode says how a link's sender settles (2.8.2).
type SenderSettleMode uint8

// Ways to settle what is sent.
const (
	SendUnsettled SenderSettleMode = iota // every delivery waits for its outcome
	SendSettled                           // no delivery waits
	SendMixed                             // each delivery says; the default of the standard
)

// ReceiverSettleMode says how a link's receiver settles (2.8.3).
type ReceiverSettleMode uint8

// Ways to settle what was received.
const (
	ReceiveFirst  ReceiverSettleMode = iota // the outcome settles; the default
	ReceiveSecond                           // the outcome waits until the sender has settled
)
