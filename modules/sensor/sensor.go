// Package sensor is the simulated temperature sensor: a module that sends readings of a
// machine that heats up and can be reset, as Azure's sample does, to the same contract
// (edge-runtime 7.1).
package sensor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/selvedge-io/selvedge/client"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/model/method"
)

// output is where readings leave the module.
const output = "temperatureOutput"

// Run works as the module that env describes until ctx ends, which is no error.
// Besides what client.FromEnvironment reads, it obeys MessageCount (500; -1 for no
// end), MessageDelay (hh:mm:ss), machineTempMin and Max, machinePressureMin and Max,
// and ambientTemp.
func Run(ctx context.Context, env func(string) string, log *slog.Logger) error {
	settings, err := readSettings(env)
	if err != nil {
		return err
	}
	link, err := client.FromEnvironment(env, func(c *client.Config) { c.Log, c.ProductInfo = log, "selvedge-sensor" })
	if err != nil {
		return err
	}
	s := &sensor{
		link: link, log: log, count: settings.count,
		machine: newMachine(settings), twin: newKnobs(settings.delay), batch: uuid.NewString(),
	}
	link.OnMethod(s.call)
	link.OnMessage(s.control)
	link.OnDesired(s.desired)

	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	sending.Go(func() { s.send(ctx) })
	return link.Run(ctx)
}

type sensor struct {
	link    *client.Session
	log     *slog.Logger
	count   int // messages to send, below zero for no end
	batch   string
	machine *machine
	twin    *knobs

	reported string // the patch reported last; owned by desired
}

// send sends readings until there were enough or ctx ends. It begins when the desired
// properties are known: they may say that nothing be sent.
func (s *sensor) send(ctx context.Context) {
	select {
	case <-s.twin.known:
	case <-ctx.Done():
		return
	}
	for n := 1; s.count < 0 || n <= s.count; {
		enabled, delay, changed := s.twin.get()
		if enabled {
			if err := s.link.SendOutput(ctx, output, s.reading(n)); err != nil {
				if ctx.Err() != nil {
					return
				}
				s.log.Error("reading is not sent", "sequence", n, "err", err)
			}
			n++
		}
		if !pause(ctx, delay, changed) {
			return
		}
	}
	s.log.Info("all messages are sent", "count", s.count)
}

// pause waits for delay, or shorter when the settings change; false when ctx ended.
func pause(ctx context.Context, delay time.Duration, changed <-chan struct{}) bool {
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
		return false
	}
	return true
}

// reading makes the n-th message.
func (s *sensor) reading(n int) *message.Message {
	body, err := json.Marshal(s.machine.measure(time.Now()))
	if err != nil {
		panic(err) // a struct of finite numbers can be marshalled
	}
	return &message.Message{
		Body:   body,
		System: message.System{ContentType: "application/json", ContentEncoding: "utf-8"},
		Properties: []message.Property{
			{Name: "sequenceNumber", Value: strconv.Itoa(n)},
			{Name: "batchId", Value: s.batch},
		},
	}
}

// call answers direct methods: reset sets the temperature back.
func (s *sensor) call(_ context.Context, c *method.Call) method.Reply {
	if !strings.EqualFold(c.Name, "reset") {
		payload, _ := json.Marshal(fmt.Sprintf("method %s is not known, there is reset", c.Name)) // strings always can be
		return method.Reply{Status: 404, Payload: payload}
	}
	s.machine.reset()
	s.log.Info("reset by method")
	return method.Reply{Status: 200}
}

// control takes messages to the input control. Those that are no commands are
// acknowledged too, since they will not become any.
func (s *sensor) control(_ context.Context, m *message.Message) error {
	if !strings.EqualFold(m.System.Input, "control") {
		return nil
	}
	reset, err := wantsReset(m.Body)
	if err != nil {
		s.log.Warn("control message is no command", "message", m.System.MessageID, "err", err)
	}
	if reset {
		s.machine.reset()
		s.log.Info("reset by message")
	}
	return nil
}

// wantsReset says whether a control message, a command or an array of them, asks for a
// reset.
func wantsReset(body []byte) (bool, error) {
	type command struct {
		Command json.RawMessage `json:"command"`
	}
	var commands []command
	if err := json.Unmarshal(body, &commands); err != nil {
		var one command
		if err := json.Unmarshal(body, &one); err != nil {
			return false, err
		}
		commands = []command{one}
	}
	for _, c := range commands {
		var word string
		if string(c.Command) == "0" || json.Unmarshal(c.Command, &word) == nil && strings.EqualFold(word, "reset") {
			return true, nil
		}
	}
	return false, nil
}

// desired takes SendData and SendInterval over and reports what is in force.
func (s *sensor) desired(ctx context.Context, _ int64, desired []byte) {
	if err := s.twin.apply(desired); err != nil {
		s.log.Warn("desired properties are not all taken over", "err", err)
	}
	patch := s.twin.report()
	if patch == s.reported {
		return
	}
	if _, err := s.link.Report(ctx, []byte(patch)); err != nil {
		if ctx.Err() == nil {
			s.log.Warn("properties are not reported", "err", err)
		}
		return // with the next change again
	}
	s.reported = patch
}
