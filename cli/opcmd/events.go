package opcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/consumer"
	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/model/fault"
)

// event is one line of the hub's event stream.
type event struct {
	Partition  string            `json:"partition"`
	Enqueued   string            `json:"enqueuedTime"`
	Device     string            `json:"deviceId"`
	Module     string            `json:"moduleId"`
	Source     string            `json:"messageSource"`
	Properties map[string]string `json:"properties"`
	Body       json.RawMessage   `json:"body"`
}

func eventsCommand(env *Env) *cobra.Command {
	var device, module, since, group string
	var count int
	var properties bool
	cmd := &cobra.Command{
		Use: "events", Short: "Watch the telemetry event stream as it comes, until Ctrl-C",
		Example: "  selvedge events --device pump-7\n" +
			"  selvedge events --since 1h --count 100 --output json | jq .body",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if module != "" && device == "" {
				return show.Usagef("--module needs --device: say whose module it is")
			}
			from, err := pastTime(since, time.Now())
			if err != nil {
				return err
			}
			q := consumer.Query{Device: device, Module: module, Since: from, Group: group}
			return watchEvents(cmd.Context(), env, q, count, properties)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&device, "device", "d", "", "only this device and its modules")
	f.StringVarP(&module, "module", "m", "", "only this module")
	f.StringVar(&since, "since", "", "start in the past: a duration such as 10m, or a time such as 2026-01-31T08:00:00Z")
	f.StringVar(&group, "group", "$Default", "consumer group")
	f.IntVarP(&count, "count", "n", 0, "stop after this many; 0 watches for ever")
	f.BoolVarP(&properties, "properties", "p", false, "show application properties too")
	return cmd
}

// watchEvents prints events until there were count of them, for ever when that is zero.
func watchEvents(ctx context.Context, env *Env, q consumer.Query, count int, properties bool) error {
	opening, cancel := context.WithTimeout(ctx, env.Timeout)
	defer cancel()
	h, err := env.open(opening)
	if err != nil {
		return err
	}
	stream, err := consumer.Open(opening, consumer.Config{Host: h.host, Policy: h.policy, Key: h.key, HTTP: h.http}, q)
	if err != nil {
		return streamError(h.host, err)
	}
	defer stream.Close()
	cancel()
	if show.Terminal(env.Print.Out) {
		env.Print.Note("watching events, Ctrl-C ends")
	}
	var line []byte
	for n := 0; count == 0 || n < count; n++ {
		e, err := stream.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("the event stream broke off: %w", err)
		}
		line = e.AppendJSON(line[:0])
		if err := printEvent(env.Print, bytes.TrimSuffix(line, []byte("\n")), properties); err != nil {
			return err
		}
	}
	return nil
}

// streamError says why the stream could not be opened.
func streamError(host string, err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return refused(f.Text, f.Code.Name())
	}
	return reach(host, err)
}

// pastTime reads a duration back from now or a time; empty is the zero time.
func pastTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{}, show.Usagef("--since %q is neither a duration such as 10m nor a time such as 2026-01-31T08:00:00Z", s)
}

// printEvent writes one event at once: a line for people, a compact JSON line or
// a YAML document for programs.
func printEvent(p *show.Printer, line []byte, properties bool) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	switch p.Format {
	case show.JSON:
		_, err := p.Out.Write(append(show.SafeJSON(line), '\n'))
		return err
	case show.YAML:
		if _, err := fmt.Fprintln(p.Out, "---"); err != nil {
			return err
		}
		return p.Answer(line, nil)
	}
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	who := e.Device
	if e.Module != "" {
		who += "/" + e.Module
	}
	at := e.Enqueued
	if t, err := time.Parse(time.RFC3339, e.Enqueued); err == nil {
		at = t.Local().Format("15:04:05.000")
	}
	text := fmt.Sprintf("%s  %-24s  %s", at, who, oneLine(e.Body))
	if e.Source != "" && e.Source != "Telemetry" {
		text += "  (" + e.Source + ")"
	}
	if properties {
		for name, value := range sorted(e.Properties) {
			text += "  " + name + "=" + value
		}
	}
	return p.Text(show.Visible(text))
}

// oneLine shows a body without quotes when it is text and compact when it is JSON.
func oneLine(body json.RawMessage) string {
	var s string
	if json.Unmarshal(body, &s) == nil {
		return s
	}
	var out bytes.Buffer
	if json.Compact(&out, body) != nil {
		return string(body)
	}
	return out.String()
}

// sorted walks a map by key, so that output is stable.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
