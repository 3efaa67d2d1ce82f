package auth

import (
	"fmt"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// refusedText is all that a device learns when its proof does not hold.
const refusedText = "the credentials are not valid for this identity"

// refuse is the one answer to a device whose proof does not hold. The cause is for
// the log and holds no part of the proof.
func refuse(format string, args ...any) error {
	return fault.Wrap(fmt.Errorf(format, args...), fault.Unauthorized, refusedText)
}

// disabled is the answer to a device that is who it says. Only then may it learn
// more.
func disabled(id ident.ID) error {
	return fault.New(fault.Unauthorized, "%s is disabled", id)
}

// tooOld is the answer to whoever brings an expired token. No secret is at stake
// there, and clocks that differ are the usual reason.
func tooOld(code fault.Code, t *sas.Token, now time.Time) error {
	return fault.New(code, "the token expired at %s and it is %s here; check the clocks",
		t.Expiry.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}

// malformed is the answer to a service whose credentials cannot be read.
func malformed(cause error) error {
	return fault.Wrap(cause, fault.GenericUnauthorized, "the Authorization header holds no valid shared access signature")
}

// refuseService is the answer to a service whose proof does not hold.
func refuseService(format string, args ...any) error {
	return fault.Wrap(fmt.Errorf(format, args...), fault.UnauthorizedAccess, "Unauthorized")
}
