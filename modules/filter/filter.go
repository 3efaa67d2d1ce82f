// Package filter is the temperature filter of Azure's tutorials: a module that passes
// on readings of a machine that is too hot, marked as alerts, and drops all others
// (edge-runtime 7.6).
package filter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/model/message"
)

const (
	output           = "output1"
	defaultThreshold = 25
)

// Run works as the module that env describes until ctx ends, which is no error. It
// takes readings at any input, whichever name a route gives it; the tutorials call it
// input1 or inputFromSensor. Alerts leave by output1 with the property
// MessageType=Alert. The desired property TemperatureThreshold is 25 when it is not
// set.
func Run(ctx context.Context, env func(string) string, log *slog.Logger) error {
	link, err := client.FromEnvironment(env, func(c *client.Config) { c.Log, c.ProductInfo = log, "selvedge-filter" })
	if err != nil {
		return err
	}
	f := &filter{link: link, log: log, known: make(chan struct{}), threshold: defaultThreshold}
	link.OnMessage(f.take)
	link.OnDesired(f.desired)
	return link.Run(ctx)
}

type filter struct {
	link *client.Session
	log  *slog.Logger

	mu        sync.Mutex
	threshold float64

	first sync.Once
	known chan struct{} // closed when the desired properties were read
}

// take passes a reading on or drops it. What cannot be read is acknowledged and
// dropped too: it will not get better, and must not hold up what follows.
func (f *filter) take(ctx context.Context, m *message.Message) error {
	select {
	case <-f.known:
	case <-ctx.Done():
		return ctx.Err()
	}
	temperature, err := temperatureOf(m.Body)
	if err != nil {
		f.log.Warn("message is no reading and is dropped", "message", m.System.MessageID, "input", m.System.Input, "err", err)
		return nil
	}
	f.mu.Lock()
	threshold := f.threshold
	f.mu.Unlock()
	if temperature <= threshold {
		return nil
	}
	f.log.Debug("alert", "temperature", temperature, "threshold", threshold)
	return f.link.SendOutput(ctx, output, alert(m))
}

// temperatureOf is machine.temperature of a reading.
func temperatureOf(body []byte) (float64, error) {
	var r struct {
		Machine struct{ Temperature *float64 }
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return 0, err
	}
	if r.Machine.Temperature == nil {
		return 0, errors.New("there is no machine.temperature in it")
	}
	return *r.Machine.Temperature, nil
}

// alert is m marked as an alert, with what its sender said of it.
func alert(m *message.Message) *message.Message {
	s := &m.System
	out := &message.Message{
		Body: m.Body,
		System: message.System{
			MessageID: s.MessageID, CorrelationID: s.CorrelationID, UserID: s.UserID,
			ContentType: s.ContentType, ContentEncoding: s.ContentEncoding, CreationTime: s.CreationTime,
		},
	}
	out.Properties = append(out.Properties, m.Properties...)
	mark := message.Property{Name: "MessageType", Value: "Alert"}
	if i := slices.IndexFunc(out.Properties, func(p message.Property) bool { return p.Name == mark.Name }); i >= 0 {
		out.Properties[i] = mark
	} else {
		out.Properties = append(out.Properties, mark)
	}
	return out
}

// desired takes the threshold over.
func (f *filter) desired(_ context.Context, _ int64, desired []byte) {
	defer f.first.Do(func() { close(f.known) })
	threshold, err := thresholdOf(desired)
	if err != nil {
		f.log.Warn("threshold stays as it was", "err", err)
		return
	}
	f.mu.Lock()
	changed := f.threshold != threshold
	f.threshold = threshold
	f.mu.Unlock()
	if changed {
		f.log.Info("threshold set", "threshold", threshold)
	}
}

func thresholdOf(desired []byte) (float64, error) {
	var d struct{ TemperatureThreshold json.RawMessage }
	if err := json.Unmarshal(desired, &d); err != nil {
		return 0, fmt.Errorf("read desired properties: %w", err)
	}
	if len(d.TemperatureThreshold) == 0 || string(d.TemperatureThreshold) == "null" {
		return defaultThreshold, nil
	}
	var threshold float64
	if json.Unmarshal(d.TemperatureThreshold, &threshold) != nil {
		return 0, fmt.Errorf("TemperatureThreshold is %.40s, must be a number", d.TemperatureThreshold)
	}
	return threshold, nil
}
