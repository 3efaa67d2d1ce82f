package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// conditions are the faults that a server's conditions mean (device-protocol 6.6.4,
// 6.7.3 and 6.13).
var conditions = map[amqp.Symbol]fault.Code{
	amqp.ErrUnauthorized:    fault.Unauthorized,
	amqp.ErrNotFound:        fault.DeviceNotFound,
	amqp.ErrNotAllowed:      fault.InvalidOperation,
	amqp.ErrNotImplemented:  fault.InvalidOperation,
	amqp.ErrResourceLimit:   fault.QuotaExceeded,
	amqp.ErrMessageSize:     fault.MessageTooLarge,
	amqp.ErrPrecondition:    fault.PreconditionFailed,
	amqp.ErrResourceDeleted: fault.DeviceNotFound,
	amqp.ErrDecode:          fault.ArgumentInvalid,
	amqp.ErrInvalidField:    fault.ArgumentInvalid,
	amqp.ErrInternal:        fault.ServerError,
	amqp.ErrStolen:          fault.TakenOver,
	amqp.ErrResourceLocked:  fault.ServerBusy,
	amqp.ErrTransferLimit:   fault.ServerBusy,

	amqp.ErrConnectionForced:   fault.ConnectionClosed,
	amqp.ErrDetachForced:       fault.ConnectionClosed,
	amqp.ErrFraming:            fault.ConnectionClosed,
	amqp.ErrConnectionRedirect: fault.ConnectionClosed,
	amqp.ErrLinkRedirect:       fault.ConnectionClosed,
	amqp.ErrWindowViolation:    fault.ConnectionClosed,
	amqp.ErrErrantLink:         fault.ConnectionClosed,
	amqp.ErrHandleInUse:        fault.ConnectionClosed,
	amqp.ErrUnattachedHandle:   fault.ConnectionClosed,
	amqp.ErrIllegalState:       fault.ConnectionClosed,

	"com.microsoft:timeout":                    fault.GatewayTimeout,
	"com.microsoft:device-container-throttled": fault.Throttled,
	"com.microsoft:message-lock-lost":          fault.LockLost,
	"com.microsoft:argument-error":             fault.ArgumentInvalid,
	"com.microsoft:argument-out-of-range":      fault.ArgumentInvalid,
	"com.microsoft:precondition-failed":        fault.PreconditionFailed,
	"com.microsoft:quota-exceeded":             fault.QuotaExceeded,
	"com.microsoft:iot-hub-not-found-error":    fault.GenericNotFound,
	"com.microsoft:iot-hub-suspended":          fault.IotHubSuspended,
	"com.microsoft:link-creation-conflict":     fault.LinkCreationConflict,
}

// faultOf is what a server's error about a message or a link asked for means; nil is an
// outcome without one.
func faultOf(e *amqp.Error) *fault.Error {
	if e == nil {
		return fault.New(fault.ServerError, "the server refuses without giving a reason")
	}
	code, ok := conditions[e.Condition]
	if !ok {
		code = fault.ServerError
	}
	code, text := problemOf(e.Description, code)
	if text == "" {
		text = string(e.Condition)
	}
	return fault.Wrap(e, code, "%.500s", text)
}

// endingOf is what the error means that ended a link, a session or the connection. Where
// a message meets a quota, those meet a limit of the moment, such as that of silence.
func endingOf(e *amqp.Error) *fault.Error {
	f := faultOf(e)
	switch {
	case f.Code == fault.QuotaExceeded && e.Condition == amqp.ErrResourceLimit:
		f.Code = fault.Unavailable
	case e.Condition == amqp.ErrDecode, e.Condition == amqp.ErrInvalidField, e.Condition == amqp.ErrMessageSize:
		f.Code = fault.ConnectionClosed
	}
	return f
}

// problemOf reads the JSON that IoT Hub puts into descriptions: the code in it, or else
// the one given, and the text for people.
func problemOf(description string, code fault.Code) (fault.Code, string) {
	var problem struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	if json.Unmarshal([]byte(description), &problem) != nil {
		return code, description
	}
	if problem.ErrorCode >= 400000 && problem.ErrorCode < 600000 {
		code = fault.Code(problem.ErrorCode)
	}
	return code, problem.Message
}

// refusal says what it means that a session or a link could not be had.
func (m *Mux) refusal(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*amqp.Error](err); ok {
		f := faultOf(e)
		if f.Code == fault.QuotaExceeded && e.Condition == amqp.ErrResourceLimit {
			f.Code = fault.Unavailable
		}
		return f
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s does not answer: %w", m.cfg.gateway(), ctx.Err())
	}
	return m.because(err)
}

// refused is that the server refused a batch for what is in it: sending it again is of
// no use, and what follows it is none the worse.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// ownFault says whether a message was refused for what is in it.
func ownFault(err error) bool {
	switch fault.CodeOf(err).Status() {
	case 400, 412, 413:
		return !fault.Temporary(err)
	default:
		return false
	}
}
