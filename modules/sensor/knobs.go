package sensor

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// maxInterval is the longest time between messages, about what a timer can hold.
const maxInterval = 100 * 365 * 24 * time.Hour

// knobs are what the twin can set.
type knobs struct {
	mu      sync.Mutex
	enabled bool
	delay   time.Duration
	changed chan struct{} // closed and replaced when one of them changes

	first sync.Once
	known chan struct{} // closed when desired properties were read
}

func newKnobs(delay time.Duration) *knobs {
	return &knobs{enabled: true, delay: delay, changed: make(chan struct{}), known: make(chan struct{})}
}

func (k *knobs) get() (enabled bool, delay time.Duration, changed <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.enabled, k.delay, k.changed
}

// apply takes over what desired properties say; what they do not mention stays.
func (k *knobs) apply(desired []byte) error {
	defer k.first.Do(func() { close(k.known) })
	var d struct{ SendData, SendInterval json.RawMessage }
	if err := json.Unmarshal(desired, &d); err != nil {
		return fmt.Errorf("read desired properties: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	enabled, delay := k.enabled, k.delay
	var errs []error
	if set(d.SendData) {
		if json.Unmarshal(d.SendData, &enabled) != nil {
			errs = append(errs, fmt.Errorf("SendData is %.40s, must be true or false", d.SendData))
		}
	}
	if set(d.SendInterval) {
		var seconds float64
		if json.Unmarshal(d.SendInterval, &seconds) != nil || !(seconds > 0) || seconds > maxInterval.Seconds() {
			errs = append(errs, fmt.Errorf("SendInterval is %.40s, must be a number of seconds above zero", d.SendInterval))
		} else {
			delay = time.Duration(math.Ceil(seconds * float64(time.Second)))
		}
	}
	if enabled != k.enabled || delay != k.delay {
		k.enabled, k.delay = enabled, delay
		close(k.changed)
		k.changed = make(chan struct{})
	}
	return errors.Join(errs...)
}

func set(v json.RawMessage) bool { return len(v) > 0 && string(v) != "null" }

// report is the patch of reported properties.
func (k *knobs) report() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	interval, err := json.Marshal(k.delay.Seconds())
	if err != nil {
		panic(err) // durations are finite
	}
	return fmt.Sprintf(`{"SendData":%t,"SendInterval":%s}`, k.enabled, interval)
}
