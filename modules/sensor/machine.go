package sensor

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
)

// measurement is the body of a message; the timestamp has .NET's round-trip form.
type measurement struct {
	Machine struct {
		Temperature float64 `json:"temperature"`
		Pressure    float64 `json:"pressure"`
	} `json:"machine"`
	Ambient struct {
		Temperature float64 `json:"temperature"`
		Humidity    int     `json:"humidity"`
	} `json:"ambient"`
	TimeCreated string `json:"timeCreated"`
}

// machine warms up from its least temperature until it is past the most, and then
// hovers there.
type machine struct {
	settings
	mu          sync.Mutex
	temperature float64
}

func newMachine(s settings) *machine { return &machine{settings: s, temperature: s.tempMin} }

// reset cools the machine down.
func (m *machine) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.temperature = m.tempMin
}

// measure goes one step on.
func (m *machine) measure(now time.Time) measurement {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.temperature > m.tempMax {
		m.temperature += rand.Float64() - 0.5
	} else {
		m.temperature += 1.5*rand.Float64() - 0.25
	}
	var r measurement
	r.Machine.Temperature = m.temperature
	r.Machine.Pressure = m.pressureMin + (m.temperature-m.tempMin)*(m.pressureMax-m.pressureMin)/(m.tempMax-m.tempMin)
	r.Ambient.Temperature = m.ambient + rand.Float64() - 0.5
	r.Ambient.Humidity = 24 + rand.IntN(3)
	r.TimeCreated = now.UTC().Format(message.TimeFormat)
	return r
}
