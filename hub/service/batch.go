package service

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/hub/inbox"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

// feedbackType is the content type of a batch of feedback; clients check it
// (service-protocol 8.2).
const feedbackType = amqp.Symbol("application/vnd.microsoft.iothub.feedback.json")

// record is how one message ended, as clients read it.
type record struct {
	OriginalMessageID  string `json:"originalMessageId"`
	DeviceGenerationID string `json:"deviceGenerationId"`
	DeviceID           string `json:"deviceId"`
	EnqueuedTimeUTC    string `json:"enqueuedTimeUtc"` // when it ended
	StatusCode         string `json:"statusCode"`
	Description        string `json:"description"`
}

// batch is some feedback that is handed out and settled as one.
type batch struct {
	records    []inbox.Feedback // at least one
	deliveries int              // that came to nothing
	tag        [16]byte         // clients make a GUID of it
}

func newBatch(records []inbox.Feedback) *batch {
	return &batch{records: records, tag: uuid.New()}
}

// message is the batch as it is sent. Clients need a user id, the name of the hub, and
// the time.
func (b *batch) message(hub string, now time.Time) (*amqp.Message, error) {
	out := make([]record, len(b.records))
	for i, f := range b.records {
		out[i] = record{
			OriginalMessageID: f.MessageID, DeviceGenerationID: f.Generation, DeviceID: f.Of.Device,
			EnqueuedTimeUTC: f.At.UTC().Format(message.TimeFormat), StatusCode: string(f.Status), Description: string(f.Status),
		}
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode feedback: %w", err)
	}
	return &amqp.Message{
		Header:      amqp.Header{DeliveryCount: uint32(b.deliveries)},
		Annotations: amqp.Map{{Key: amqp.Symbol("iothub-enqueuedtime"), Value: now}},
		Properties: amqp.Properties{
			MessageID: uuid.UUID(b.tag).String(), UserID: []byte(hub), To: "/messages/serviceBound/feedback",
			ContentType: feedbackType, ContentEncoding: "utf-8",
		},
		Data: [][]byte{body},
	}, nil
}
