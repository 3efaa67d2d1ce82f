package amqphead

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

func TestErrorOf(t *testing.T) {
	for code, want := range map[fault.Code]amqp.Symbol{
		fault.Unauthorized: "amqp:unauthorized-access", fault.UnauthorizedAccess: "amqp:unauthorized-access", fault.GenericUnauthorized: "amqp:unauthorized-access",
		fault.DeviceDisabled: "amqp:unauthorized-access",
		fault.DeviceNotFound: "amqp:not-found", fault.ModuleNotFound: "amqp:not-found", fault.AmqpAddressNotFound: "amqp:not-found",
		fault.InvalidOperation: "amqp:not-allowed", fault.MethodNotAllowed: "amqp:not-allowed",
		fault.QuotaExceeded: "amqp:resource-limit-exceeded", fault.QueueFull: "amqp:resource-limit-exceeded", fault.MaxCbsTokens: "amqp:resource-limit-exceeded",
		fault.MessageTooLarge: "amqp:link:message-size-exceeded", fault.TakenOver: "amqp:link:stolen", fault.ClosedOnFaultInjection: "amqp:link:detach-forced",
		fault.ArgumentInvalid: "com.microsoft:argument-error", fault.ArgumentNull: "com.microsoft:argument-error",
		fault.Throttled: "com.microsoft:device-container-throttled", fault.IotHubSuspended: "com.microsoft:iot-hub-suspended",
		fault.PreconditionFailed: "com.microsoft:precondition-failed", fault.LockLost: "com.microsoft:message-lock-lost",
		fault.DeviceAlreadyExists: "com.microsoft:device-already-exists", fault.LinkCreationConflict: "com.microsoft:link-creation-conflict",
		fault.GatewayTimeout: "com.microsoft:timeout", fault.GenericTimeout: "com.microsoft:timeout",
		fault.ServerError: "amqp:internal-error", fault.Unavailable: "amqp:internal-error", fault.ServerBusy: "amqp:internal-error",
	} {
		e := ErrorOf(fault.Wrap(errors.New("for the log"), code, "for the peer"))
		var told struct {
			ErrorCode           int
			Message, TrackingID string
		}
		if err := json.Unmarshal([]byte(e.Description), &told); err != nil {
			t.Fatal(err)
		}
		tracking, _ := e.Info.Text("com.microsoft:tracking-id")
		number, _ := e.Info.Integer("com.microsoft:error-code")
		if e.Condition != want || told.ErrorCode != int(code) || told.Message != "for the peer" || told.TrackingID != tracking || tracking == "" || number != int64(code) {
			t.Errorf("%s is told as %+v, want %s", code.Name(), e, want)
		}
	}
	if e := ErrorOf(errors.New("disk on fire")); e.Condition != amqp.ErrInternal {
		t.Errorf("%v", e)
	}
}
