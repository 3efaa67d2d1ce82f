// Package fault is the one error vocabulary of Selvedge. A fault carries one of
// Azure's published six-digit codes, because every protocol head has to show
// those to its clients; heads map them once, at the border.
package fault

import (
	"errors"
	"fmt"
)

// Code is a six-digit error code of IoT Hub. Its first three digits are the HTTP
// status. Source: IoT Hub's published error catalogue (service-protocol 3.4).
type Code int

// The codes Selvedge raises.
const (
	InvalidProtocolVersion Code = 400001
	InvalidOperation       Code = 400003
	ArgumentInvalid        Code = 400004
	ArgumentNull           Code = 400005
	IotHubFormatError      Code = 400006
	DeviceDefinedTwice     Code = 400011
	BulkRegistryFailure    Code = 400013
	EtagDoesNotMatch       Code = 400023
	TakenOver              Code = 400027
	InvalidDeviceScope     Code = 400028
	ClosedOnFaultInjection Code = 400029
	InvalidConfiguration   Code = 400402

	GenericUnauthorized Code = 401000
	UnauthorizedAccess  Code = 401002
	Unauthorized        Code = 401003
	SystemModuleModify  Code = 401100

	IotHubSuspended  Code = 403001
	QuotaExceeded    Code = 403002
	QueueFull        Code = 403004
	MaxCbsTokens     Code = 403005
	DeviceDisabled   Code = 403012
	TooManyInflight  Code = 403800
	InvalidExpiry    Code = 403009
	GenericForbidden Code = 403000

	GenericNotFound       Code = 404000
	DeviceNotFound        Code = 404001
	AmqpAddressNotFound   Code = 404006
	ModuleNotFound        Code = 404010
	DeviceNotOnline       Code = 404103
	ConnectionClosed      Code = 404104
	ConfigurationNotFound Code = 404301

	MethodNotAllowed Code = 405000

	DeviceAlreadyExists        Code = 409001
	LinkCreationConflict       Code = 409002
	ModuleAlreadyExists        Code = 409301
	ConfigurationAlreadyExists Code = 409401

	PreconditionFailed Code = 412001
	LockLost           Code = 412002

	MessageTooLarge Code = 413001
	TooManyDevices  Code = 413002
	TooManyModules  Code = 413003

	Throttled Code = 429001

	ServerError    Code = 500001
	GenericTimeout Code = 500008
	BadGateway     Code = 502000
	Unavailable    Code = 503001
	ServerBusy     Code = 503005
	GatewayTimeout Code = 504101
)

var names = map[Code]string{
	InvalidProtocolVersion: "InvalidProtocolVersion", InvalidOperation: "InvalidOperation",
	ArgumentInvalid: "ArgumentInvalid", ArgumentNull: "ArgumentNull", IotHubFormatError: "IotHubFormatError",
	DeviceDefinedTwice: "DeviceDefinedMultipleTimes", BulkRegistryFailure: "BulkRegistryOperationFailure",
	EtagDoesNotMatch: "EtagDoesNotMatch", TakenOver: "ConnectionForcefullyClosedOnNewConnection",
	InvalidDeviceScope: "InvalidDeviceScope", ClosedOnFaultInjection: "ConnectionForcefullyClosedOnFaultInjection",
	InvalidConfiguration: "InvalidConfigurationContent",
	GenericUnauthorized:  "GenericUnauthorized", UnauthorizedAccess: "IotHubUnauthorizedAccess",
	Unauthorized: "IotHubUnauthorized", SystemModuleModify: "SystemModuleModifyUnauthorizedAccess",
	GenericForbidden: "GenericForbidden", IotHubSuspended: "IotHubSuspended", QuotaExceeded: "IotHubQuotaExceeded",
	QueueFull: "DeviceMaximumQueueDepthExceeded", MaxCbsTokens: "IotHubMaxCbsTokenExceeded",
	DeviceDisabled: "DeviceDisabled", TooManyInflight: "DeviceMaximumInflightMethodExceeded",
	InvalidExpiry:   "InvalidMessageExpiryTime",
	GenericNotFound: "GenericNotFound", DeviceNotFound: "DeviceNotFound", AmqpAddressNotFound: "AmqpAddressNotFound",
	ModuleNotFound: "ModuleNotFound", DeviceNotOnline: "DeviceNotOnline",
	ConnectionClosed: "DeviceConnectionClosedRemotely", ConfigurationNotFound: "ConfigurationNotFound",
	MethodNotAllowed:    "GenericMethodNotAllowed",
	DeviceAlreadyExists: "DeviceAlreadyExists", LinkCreationConflict: "LinkCreationConflict",
	ModuleAlreadyExists: "ModuleAlreadyExistsOnDevice", ConfigurationAlreadyExists: "ConfigurationAlreadyExists",
	PreconditionFailed: "PreconditionFailed", LockLost: "DeviceMessageLockLost",
	MessageTooLarge: "MessageTooLarge", TooManyDevices: "TooManyDevices", TooManyModules: "TooManyModulesOnDevice",
	Throttled:   "ThrottlingException",
	ServerError: "ServerError", GenericTimeout: "GenericTimeout", BadGateway: "GenericBadGateway",
	Unavailable: "ServiceUnavailable", ServerBusy: "ServerBusy", GatewayTimeout: "GatewayTimeout",
}

// Name is the published name of the code, as in the iothub-errorcode header.
func (c Code) Name() string {
	if n, ok := names[c]; ok {
		return n
	}
	return "ServerError"
}

// Status is the HTTP status of the code.
func (c Code) Status() int { return int(c) / 1000 }

// Error is a fault whose text may be shown to the peer.
type Error struct {
	Code Code
	Text string // for the peer: says what is wrong and what to do; never a secret
	Err  error  // the cause, for logs only; may be nil
}

// New makes a fault whose text a peer may see.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Wrap is New with a cause that only logs see.
func Wrap(err error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...), Err: err}
}

// Error is the text with the cause, for logs.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Text + ": " + e.Err.Error()
	}
	return e.Text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf is the code of the first fault in err's chain, ServerError when there
// is none, and zero for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ServerError
}

// TextOf is what a peer may be told about err. Errors that are not faults are
// ours to debug and yield a bare sentence.
func TextOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Text
	}
	return "an internal error occurred; the server's log says more"
}

// Is says whether err carries code.
func Is(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// Temporary says whether trying the same again later may help.
func Temporary(err error) bool {
	switch c := CodeOf(err); {
	case c == 0:
		return false
	case c == ConnectionClosed, c == DeviceNotOnline, c == LockLost, c == TakenOver:
		return true
	default:
		return c.Status() == 429 || c.Status() >= 500
	}
}
