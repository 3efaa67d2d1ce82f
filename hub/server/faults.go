package server

import (
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/message"
)

// Properties by which the SDKs' test suites order a fault (device-protocol 13).
const (
	faultType     = "AzIoTHub_FaultOperationType"
	faultReason   = "AzIoTHub_FaultOperationCloseReason"
	faultDelay    = "AzIoTHub_FaultOperationDelayInSecs"
	faultDuration = "AzIoTHub_FaultOperationDurationInSecs"
)

// Bounds of what a device may order.
const (
	maxFaults    = 10_000
	maxFaultTime = 10 * time.Minute
)

// order is a fault that a device asked for.
type order struct {
	kind            string
	reason          string
	delay, duration time.Duration
}

// orderOf reads an order from a message; ok is false when it holds none.
func orderOf(m *message.Message) (o order, ok bool) {
	if o.kind, ok = m.Get(faultType); !ok {
		return o, false
	}
	o.reason, _ = m.Get(faultReason)
	o.delay, o.duration = seconds(m, faultDelay), seconds(m, faultDuration)
	return o, true
}

func seconds(m *message.Message, name string) time.Duration {
	text, _ := m.Get(name)
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0) {
		return 0
	}
	return time.Duration(min(n, maxFaultTime.Seconds()) * float64(time.Second))
}

// effect is what an order does.
type effect struct {
	close     bool       // end the connection once
	part      bool       // end only a part of it, which only some connections have
	telemetry fault.Code // refuse messages while it lasts; zero: do not
	connect   fault.Code // refuse connections while it lasts; zero: do not
}

// effects by kind of order. Those of AMQP mean nothing to a connection of MQTT.
var effects = map[string]effect{
	"ShutDownAmqp":           {part: true},
	"KillAmqpConnection":     {part: true},
	"KillAmqpSession":        {part: true},
	"KillAmqpCBSLinkReq":     {part: true},
	"KillAmqpCBSLinkResp":    {part: true},
	"KillAmqpD2CLink":        {part: true},
	"KillAmqpC2DLink":        {part: true},
	"KillAmqpc2dLink":        {part: true}, // as one suite spells it
	"KillAmqpTwinLinkReq":    {part: true},
	"KillAmqpTwinLinkResp":   {part: true},
	"KillAmqpMethodReqLink":  {part: true},
	"KillAmqpMethodRespLink": {part: true},

	"KillTcp":               {close: true, connect: fault.Unavailable},
	"ShutDownMqtt":          {close: true, connect: fault.Unavailable},
	"InvokeThrottling":      {telemetry: fault.Throttled},
	"InvokeMaxMessageQuota": {telemetry: fault.QuotaExceeded},
	"InvokeAuthError":       {close: true, telemetry: fault.Unauthorized, connect: fault.Unauthorized},
}

// faults carries out orders. At most one is in force for an identity, the latest.
type faults struct {
	close func(id ident.ID, kind string, reason error) // ends a connection, of some kinds a part of it
	log   *slog.Logger

	mu     sync.Mutex
	orders map[ident.ID]*standing
	ended  bool
}

// standing is an order that waits or lasts.
type standing struct {
	effect
	kind     string
	timer    *time.Timer
	inForce  bool
	duration time.Duration
	reason   string
}

func newFaults(close func(ident.ID, string, error), log *slog.Logger) *faults {
	return &faults{close: close, log: log, orders: map[ident.ID]*standing{}}
}

// connect says whether a fault keeps id from connecting.
func (f *faults) connect(id ident.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.orders[id]; s != nil && s.inForce && s.effect.connect != 0 {
		return fault.New(s.effect.connect, "a fault was ordered: %.100s", s.reason)
	}
	return nil
}

// telemetry takes orders from messages and says whether a fault refuses them.
func (f *faults) telemetry(from ident.ID, batch []message.Message) error {
	for i := range batch {
		if o, ok := orderOf(&batch[i]); ok {
			f.take(from, o)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.orders[from]; s != nil && s.inForce && s.effect.telemetry != 0 {
		return fault.New(s.effect.telemetry, "a fault was ordered: %.100s", s.reason)
	}
	return nil
}

// take puts an order in the place of an older one.
func (f *faults) take(id ident.ID, o order) {
	e, known := effects[o.kind]
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.orders[id]
	if !known || f.ended || old == nil && len(f.orders) >= maxFaults {
		f.log.Warn("ordered fault not carried out", "device", id.Device, "module", id.Module, "kind", o.kind)
		return
	}
	if old != nil {
		old.timer.Stop()
	}
	f.log.Info("fault ordered", "device", id.Device, "module", id.Module, "kind", o.kind, "delay", o.delay, "duration", o.duration)
	s := &standing{effect: e, kind: o.kind, duration: o.duration, reason: string([]byte(o.reason))}
	f.orders[id] = s
	s.timer = time.AfterFunc(o.delay, func() { f.start(id, s) })
}

// start lets a fault happen.
func (f *faults) start(id ident.ID, s *standing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.orders[id] != s {
		return
	}
	s.inForce = true
	s.timer = time.AfterFunc(s.duration, func() { f.finish(id, s) })
	if s.effect.close || s.effect.part {
		f.close(id, s.kind, fault.New(fault.ClosedOnFaultInjection, "a fault was ordered: %.100s", s.reason))
	}
}

func (f *faults) finish(id ident.ID, s *standing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.orders[id] == s {
		delete(f.orders, id)
	}
}

// stop ends all faults.
func (f *faults) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for id, s := range f.orders {
		s.timer.Stop()
		delete(f.orders, id)
	}
}
