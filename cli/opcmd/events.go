package opcmd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
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
			q := url.Values{}
			for k, v := range map[string]string{"device": device, "module": module, "since": since, "group": group} {
				if v != "" {
					q.Set(k, v)
				}
			}
			if count > 0 {
				q.Set("count", strconv.Itoa(count))
			}
			h, err := env.open(cmd.Context())
			if err != nil {
				return err
			}
			resp, err := h.send(cmd.Context(), request{method: http.MethodGet, path: "/selvedge/events", query: q})
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if show.Terminal(env.Print.Out) {
				env.Print.Note("watching events, Ctrl-C ends")
			}
			lines := bufio.NewScanner(resp.Body)
			lines.Buffer(nil, 4<<20)
			for lines.Scan() {
				if err := printEvent(env.Print, lines.Bytes(), properties); err != nil {
					return err
				}
			}
			if err := lines.Err(); err != nil && cmd.Context().Err() == nil {
				return fmt.Errorf("the event stream broke off: %w", err)
			}
			return nil
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

// printEvent writes one event at once: a line for people, a compact JSON line or
// a YAML document for programs.
func printEvent(p *show.Printer, line []byte, properties bool) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	switch p.Format {
	case show.JSON:
		_, err := p.Out.Write(append(line, '\n'))
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
	_, err := fmt.Fprintln(p.Out, text)
	return err
}

// oneLine shows a body without quotes when it is text and compact when it is JSON.
func oneLine(body json.RawMessage) string {
	var s string
	if json.Unmarshal(body, &s) == nil {
		return strings.ReplaceAll(s, "\n", "⏎")
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
