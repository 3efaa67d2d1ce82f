package agent

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
)

const (
	maxAnswer = 127000  // bytes of an answer with logs (edge-runtime 2.10)
	maxText   = 1 << 20 // bytes of text that are considered, the newest of each module
	maxLine   = 32 << 10

	leftOut = "[earlier lines are left out, the answer would be too large]"
)

// moduleLogs is one element of the answer to GetModuleLogs.
type moduleLogs struct {
	ID      string  `json:"id"`
	Payload *string `json:"payload,omitempty"`
	Bytes   []byte  `json:"payloadBytes,omitempty"` // compressed
}

// getModuleLogs gives logs. Where the original fails because there are too many, this
// leaves out the oldest and says so.
func (a *Agent) getModuleLogs(ctx context.Context, payload []byte) (any, error) {
	r, err := parseLogsRequest(payload, time.Now())
	if err != nil {
		return nil, err
	}
	modules := slices.DeleteFunc(a.Modules(), func(m ModuleState) bool { return isSystem(m.Name) || r.match(m.Name) == nil })
	logs := make([]tail, len(modules))
	for i, m := range modules {
		logs[i] = tail{module: m.Name, most: maxText / len(modules)}
		err := a.readTail(ctx, &logs[i], r.match(m.Name))
		if err != nil && !fault.Is(err, fault.ModuleNotFound) && !fault.Is(err, fault.InvalidOperation) {
			return nil, fmt.Errorf("read the log of module %s: %w", m.Name, err)
		} // the others have written nothing
	}
	for most := maxText; ; most /= 2 {
		answer, err := r.write(logs, logHost{a.cfg.Host.Hub, a.cfg.Host.Device})
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(answer)
		if err != nil || len(raw) <= maxAnswer || most == 0 {
			return answer, err
		}
		for i := range logs {
			logs[i].keep(most / len(logs))
		}
	}
}

// readTail reads the lines that an item of a request asks for, the newest of them.
func (a *Agent) readTail(ctx context.Context, t *tail, item *logItem) error {
	text, err := a.Logs(ctx, t.module, runtime.LogQuery{Tail: item.tail, Since: item.since})
	if err != nil {
		return err
	}
	defer text.Close()
	in := bufio.NewReaderSize(text, maxLine)
	for {
		raw, err := in.ReadSlice('\n')
		if len(raw) > 0 {
			if l := parseLine(string(bytes.TrimRight(raw, "\r\n"))); item.wants(l) {
				t.add(l)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull): // a longer line comes in pieces
			return err
		}
	}
}

// tail is the newest lines of a module's log.
type tail struct {
	module string
	most   int // bytes
	lines  []logLine
	size   int
	cut    bool // there were more
}

func (t *tail) add(l logLine) {
	t.lines = append(t.lines, l)
	if t.size += len(l.raw) + 1; t.size > 2*t.most {
		t.keep(t.most)
	}
}

// keep leaves out the oldest lines until the rest is small enough.
func (t *tail) keep(most int) {
	n := 0
	for ; n < len(t.lines) && t.size > most; n++ {
		t.size -= len(t.lines[n].raw) + 1
	}
	if n > 0 {
		t.cut = true
		t.lines = append([]logLine(nil), t.lines[n:]...)
	}
}

// logHost is what JSON lines tell about where they come from.
type logHost struct{ hub, device string }

// write makes the answer.
func (r *logsRequest) write(logs []tail, host logHost) ([]moduleLogs, error) {
	answer := make([]moduleLogs, 0, len(logs))
	for _, t := range logs {
		lines := t.lines
		if t.cut {
			lines = append([]logLine{{level: defaultLevel, text: leftOut, raw: leftOut}}, lines...)
		}
		text, err := r.format(lines, t.module, host)
		if err != nil {
			return nil, err
		}
		one := moduleLogs{ID: t.module}
		if !r.compress {
			s := string(text)
			one.Payload = &s
		} else if one.Bytes, err = zipped(text); err != nil {
			return nil, err
		}
		answer = append(answer, one)
	}
	return answer, nil
}

func (r *logsRequest) format(lines []logLine, module string, host logHost) ([]byte, error) {
	if !r.json {
		var text bytes.Buffer
		for _, l := range lines {
			text.WriteString(l.raw)
			text.WriteByte('\n')
		}
		return text.Bytes(), nil
	}
	entries := make([]map[string]any, len(lines))
	for i, l := range lines {
		entries[i] = map[string]any{"iothub": host.hub, "device": host.device, "id": module, "stream": "stdout",
			"loglevel": l.level, "text": l.text, "timestamp": nil}
		if !l.at.IsZero() {
			entries[i]["timestamp"] = utc(l.at)
		}
	}
	return json.Marshal(entries)
}

func zipped(text []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
