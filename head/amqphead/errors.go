package amqphead

import (
	"github.com/selvedge-io/selvedge/head/problem"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// Conditions of Azure's own (device-protocol 6.13).
const (
	errArgument     amqp.Symbol = "com.microsoft:argument-error"
	errThrottled    amqp.Symbol = "com.microsoft:device-container-throttled"
	errLockLost     amqp.Symbol = "com.microsoft:message-lock-lost"
	errSuspended    amqp.Symbol = "com.microsoft:iot-hub-suspended"
	errPrecondition amqp.Symbol = "com.microsoft:precondition-failed"
	errExists       amqp.Symbol = "com.microsoft:device-already-exists"
	errConflict     amqp.Symbol = "com.microsoft:link-creation-conflict"
	errTimeout      amqp.Symbol = "com.microsoft:timeout"
)

// Keys of the info map of an error.
const (
	infoTracking = amqp.Symbol("com.microsoft:tracking-id")
	infoCode     = amqp.Symbol("com.microsoft:error-code")
)

// ErrorOf is how a peer is told about err: the condition that SDKs know and, as a JSON
// text, what the Hub would say (device-protocol 6.6.4).
func ErrorOf(err error) *amqp.Error {
	e, _ := tracked(err)
	return e
}

// tracked is ErrorOf with the tracking id in it, for the log.
func tracked(err error) (e *amqp.Error, trackingID string) {
	body, trackingID := problem.JSON(err)
	code := fault.CodeOf(err)
	return &amqp.Error{
		Condition:   conditionOf(code),
		Description: string(body),
		Info:        amqp.Map{{Key: infoTracking, Value: trackingID}, {Key: infoCode, Value: int32(code)}},
	}, trackingID
}

// conditionOf is the condition that makes an SDK raise what it raises for the code.
func conditionOf(code fault.Code) amqp.Symbol {
	switch code {
	case fault.TakenOver:
		return amqp.ErrStolen
	case fault.ClosedOnFaultInjection:
		return amqp.ErrDetachForced
	case fault.InvalidOperation:
		return amqp.ErrNotAllowed
	case fault.IotHubSuspended:
		return errSuspended
	case fault.DeviceDisabled:
		return amqp.ErrUnauthorized
	case fault.DeviceAlreadyExists:
		return errExists
	case fault.LinkCreationConflict:
		return errConflict
	case fault.LockLost:
		return errLockLost
	case fault.GenericTimeout, fault.GatewayTimeout:
		return errTimeout
	}
	switch code.Status() {
	case 400:
		return errArgument
	case 401:
		return amqp.ErrUnauthorized
	case 403:
		return amqp.ErrResourceLimit
	case 404:
		return amqp.ErrNotFound
	case 405:
		return amqp.ErrNotAllowed
	case 412:
		return errPrecondition
	case 413:
		return amqp.ErrMessageSize
	case 429:
		return errThrottled
	}
	return amqp.ErrInternal
}
