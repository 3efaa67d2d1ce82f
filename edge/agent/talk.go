package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Changes that come close together make one report.
const (
	gather      = 100 * time.Millisecond // between a change and its report
	reportPause = time.Second            // between two reports
)

// talker is the agent's side of its twin.
type talker struct {
	a     *Agent
	known bool         // the twin was read at least once: before, nothing is reported
	told  *twin.Object // the reported properties as they are in the twin
}

// converse reads the twin when it changed and reports changes of ours, until ctx ends.
func (a *Agent) converse(ctx context.Context) *talker {
	t := &talker{a: a}
	signal(a.changed) // it was never read
	var again, due <-chan time.Time
	var misread, unsent int
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return t
		case <-a.changed:
			again = time.After(0)
		case <-again:
			again = nil
			if err := t.read(ctx); err == nil {
				misread = 0
				signal(a.tell)
			} else if ctx.Err() == nil {
				again = time.After(backOff(firstPause, longestWait, misread))
				misread++
				a.log.Warn("twin of the agent cannot be read", "err", err)
			}
		case <-a.tell:
			if due == nil {
				due = time.After(max(gather, time.Until(last.Add(reportPause))))
			}
		case <-due:
			due = nil
			last = time.Now()
			if err := t.report(ctx); err == nil {
				unsent = 0
			} else if ctx.Err() == nil {
				due = time.After(backOff(firstPause, longestWait, unsent))
				unsent++
				a.log.Warn("state of the modules is not reported", "err", err)
			}
		}
	}
}

// read fetches the twin and puts its desired properties into force.
func (t *talker) read(ctx context.Context) error {
	raw, err := t.a.cfg.Twin.Twin(ctx)
	if err != nil {
		return err
	}
	var doc struct{ Desired, Reported *twin.Object }
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("read twin: %w", err)
	}
	t.known, t.told = true, doc.Reported.Without(twin.KeyVersion)
	if !t.a.takeDesired(ctx, doc.Desired) {
		t.a.syncSoon() // what made us read may have to do with identities
	}
	return nil
}

// report sends what changed since the last report.
func (t *talker) report(ctx context.Context) error {
	if !t.known {
		return nil
	}
	v := t.a.view()
	doc, err := reported(v)
	if err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	err = t.send(ctx, twin.Diff(t.told, doc))
	if fault.Is(err, fault.ArgumentInvalid) || fault.Is(err, fault.MessageTooLarge) {
		t.a.log.Error("report is refused, the modules are left out of it", "err", err)
		doc = minimal(v, err)
		err = t.send(ctx, twin.Diff(t.told, twin.Merge(t.told, doc)))
	}
	return err
}

func (t *talker) send(ctx context.Context, patch *twin.Object) error {
	if patch.Len() == 0 {
		return nil
	}
	if err := t.a.cfg.Twin.Report(ctx, patch.AppendJSON(nil)); err != nil {
		return err
	}
	t.told = twin.Merge(t.told, patch)
	return nil
}
