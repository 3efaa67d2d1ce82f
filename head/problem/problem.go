// Package problem writes the error object that the Hub's devices read: the body of a
// refused twin request, and the description of a refused AMQP link (device-protocol
// 5.13.3 and 6.6.4).
package problem

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
)

// object is in the Hub's form. Node looks at errorCode alone, so there is always one.
type object struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
}

// JSON is the object for err, and the tracking id in it, under which the log should
// say more.
func JSON(err error) (body []byte, trackingID string) {
	now := time.Now().UTC()
	o := object{
		ErrorCode:    int(fault.CodeOf(err)),
		TrackingID:   newTrackingID(now),
		Message:      fault.TextOf(err),
		TimestampUTC: now.Format(message.TimeFormat),
	}
	body, broken := json.Marshal(o)
	if broken != nil { // no such text is known
		body = []byte(`{"errorCode":500001}`)
	}
	return body, o.TrackingID
}

// newTrackingID is made as the Hub's are.
func newTrackingID(now time.Time) string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:]) + "-G:0-TimeStamp:" + now.Format("01/02/2006 15:04:05")
}
