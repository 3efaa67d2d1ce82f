package agent

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// logsRequest is the payload of GetModuleLogs (edge-runtime 2.10).
type logsRequest struct {
	items    []logItem
	json     bool
	compress bool
}

// logItem chooses modules and lines of their logs.
type logItem struct {
	id           *regexp.Regexp
	tail         int // zero is all
	since, until time.Time
	level        int // this or worse
	regex        *regexp.Regexp
}

const defaultLevel = 6 // informational, of syslog

func parseLogsRequest(payload []byte, now time.Time) (*logsRequest, error) {
	var doc struct {
		Items       json.RawMessage `json:"items"`
		Encoding    string          `json:"encoding"`
		ContentType string          `json:"contentType"`
	}
	if err := readRequest(payload, &doc); err != nil {
		return nil, err
	}
	r := new(logsRequest)
	var err error
	if r.compress, err = choice("encoding", doc.Encoding, "none", "gzip"); err != nil {
		return nil, err
	}
	if r.json, err = choice("contentType", doc.ContentType, "text", "json"); err != nil {
		return nil, err
	}
	raw := bytes.TrimSpace(doc.Items)
	if len(raw) > 0 && raw[0] == '{' { // one alone
		raw = append(append([]byte("["), raw...), ']')
	}
	var items []rawItem
	if err := json.Unmarshal(raw, &items); err != nil || len(items) == 0 {
		return nil, bad(`items must be an object or an array of objects such as {"id": "all", "filter": {"tail": 10}}`)
	}
	for _, i := range items {
		item, err := i.parse(now)
		if err != nil {
			return nil, err
		}
		r.items = append(r.items, item)
	}
	return r, nil
}

// choice says whether the second of two words was chosen; the first is the default.
func choice(name, value, first, second string) (bool, error) {
	switch {
	case value == "", strings.EqualFold(value, first):
		return false, nil
	case strings.EqualFold(value, second):
		return true, nil
	}
	return false, bad("%s must be %s or %s", name, first, second)
}

type rawItem struct {
	ID     string `json:"id"`
	Filter struct {
		Tail  *int            `json:"tail"`
		Since json.RawMessage `json:"since"`
		Until json.RawMessage `json:"until"`
		Level *int            `json:"loglevel"`
		Regex string          `json:"regex"`
	} `json:"filter"`
}

func (i rawItem) parse(now time.Time) (item logItem, err error) {
	id := i.ID
	switch id {
	case "":
		return item, bad(`an item has no id; write the name of a module, a regular expression or "all"`)
	case "all":
		id = ""
	}
	if item.id, err = regexp.Compile("(?i)" + id); err != nil {
		return item, bad("id %.80q is no regular expression: %v", i.ID, err)
	}
	if f := i.Filter; f.Tail != nil {
		if item.tail = *f.Tail; item.tail < 1 {
			return item, bad("tail must be a number of lines")
		}
	}
	if item.since, err = parseMoment("since", i.Filter.Since, now); err != nil {
		return item, err
	}
	if item.until, err = parseMoment("until", i.Filter.Until, now); err != nil {
		return item, err
	}
	item.level = 7
	if l := i.Filter.Level; l != nil {
		if item.level = *l; item.level < 0 || item.level > 7 {
			return item, bad("loglevel must be from 0 to 7")
		}
	}
	if i.Filter.Regex != "" {
		if item.regex, err = regexp.Compile(i.Filter.Regex); err != nil {
			return item, bad("regex %.80q is no regular expression: %v", i.Filter.Regex, err)
		}
	}
	return item, nil
}

// match gives the first item that chooses a module, nil when none does.
func (r *logsRequest) match(module string) *logItem {
	for i := range r.items {
		if r.items[i].id.MatchString(module) {
			return &r.items[i]
		}
	}
	return nil
}

// wants says whether a line passes the filter. A line without a time passes any.
func (i *logItem) wants(l logLine) bool {
	return l.level <= i.level && (i.regex == nil || i.regex.MatchString(l.text)) &&
		(i.until.IsZero() || !l.at.After(i.until)) && (l.at.IsZero() || !l.at.Before(i.since))
}

// parseMoment reads RFC 3339, Unix seconds as number or text, or how long ago.
func parseMoment(name string, raw json.RawMessage, now time.Time) (time.Time, error) {
	var text string
	if len(raw) == 0 || string(raw) == "null" {
		return time.Time{}, nil
	}
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if ago, ok := parseSpan(text); ok {
		return now.Add(-ago), nil
	}
	return time.Time{}, bad(`%s must be a time such as 2026-01-31T08:00:00Z, seconds since 1970, or a duration such as "1 day 2 hours" or "90m"`, name)
}

var (
	spans     = regexp.MustCompile(`^(?:\s*\d+\s*[a-zA-Z]+)+\s*$`)
	spanParts = regexp.MustCompile(`(\d+)\s*([a-zA-Z]+)`)
	spanUnits = map[string]time.Duration{
		"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
		"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
		"h": time.Hour, "hr": time.Hour, "hrs": time.Hour, "hour": time.Hour, "hours": time.Hour,
		"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
		"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
	}
)

// parseSpan reads durations as people write them: 90m, 1 day, 2 days 3 hours.
func parseSpan(text string) (time.Duration, bool) {
	if !spans.MatchString(text) {
		return 0, false
	}
	var sum time.Duration
	for _, part := range spanParts.FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseInt(part[1], 10, 32)
		unit, known := spanUnits[strings.ToLower(part[2])]
		if err != nil || !known || n > int64((1<<62-sum)/unit) {
			return 0, false
		}
		sum += time.Duration(n) * unit
	}
	return sum, true
}

// logLine is one line of a log.
type logLine struct {
	level int
	at    time.Time // zero when the line does not say
	text  string    // without level and time
	raw   string
}

// logForm is the original's form of a line (edge-runtime 2.12), which modules may share:
// <6> 2026-01-01 12:00:00.000 +00:00 [INF] - text
var logForm = regexp.MustCompile(`^<([0-7])>\s+(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d\d:\d\d)\s+(.*)$`)

func parseLine(raw string) logLine {
	l := logLine{level: defaultLevel, text: raw, raw: raw}
	parts := logForm.FindStringSubmatch(raw)
	if parts == nil {
		return l
	}
	at, err := time.Parse("2006-01-02 15:04:05.000 -07:00", parts[2])
	if err != nil {
		return l
	}
	l.level, l.at, l.text = int(parts[1][0]-'0'), at, parts[3]
	return l
}
