package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/selvedge-io/selvedge/model/message"
)

func TestSources(t *testing.T) {
	sources := map[string]Source{
		"leaf":  {},
		"bare":  {Module: "Sensor"},
		"out":   {Module: "Sensor", Output: "Temp"},
		"out2":  {Module: "Sensor", Output: "temp2"},
		"other": {Module: "sensor2", Output: "temp"},
		"twin":  {Module: "Sensor", TwinChange: true},
	}
	for from, want := range map[string]string{
		"/*":                                        "bare leaf other out out2 twin",
		"/messages/*":                               "bare leaf other out out2",
		"/messages":                                 "bare leaf other out out2",
		"/messages/modules/*":                       "bare other out out2",
		"/messages/modules/sensor/*":                "bare out out2",
		"/messages/modules/SENSOR":                  "bare out out2",
		"/messages/modules/sensor*":                 "bare out out2",
		"/messages/modules/sensor/outputs/*":        "out out2",
		"/messages/modules/sensor/outputs/temp":     "out",
		"/MESSAGES/Modules/Sensor/Outputs/TEMP":     "out",
		"/messages/modules/*/outputs/temp":          "",
		"/twinChangeNotifications":                  "twin",
		"/twinchangenotifications/*":                "twin",
		"/messages/mod":                             "",
		"/moduleLifecycleEvents":                    "",
		"/ messages /* here */ / modules / sensor2": "other",
	} {
		table, err := New([]Def{{Name: "r", Text: "FROM " + from + " INTO $upstream"}})
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		for range 2 { // learning, then remembering
			var got []string
			for name, src := range sources {
				if len(table.Match(nil, src, &message.Message{})) > 0 {
					got = append(got, name)
				}
			}
			slices.Sort(got)
			if got := strings.Join(got, " "); got != want {
				t.Errorf("%s matches %q, want %q", from, got, want)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Endpoint{
		`FROM /messages/* INTO $upstream`:                                          {},
		`select * from /messages/* into $UpStream`:                                 {},
		"\n\tFROM /messages/* /* all */\n INTO $upstream\n":                        {},
		`FROM /* INTO BrokeredEndpoint("/modules/filter/inputs/in.1")`:             {"filter", "in.1"},
		`FROM /* INTO brokeredendpoint ( '/Modules/Filter/Inputs/In' )`:            {"Filter", "In"},
		`FROM /messages/* WHERE a = ' INTO ' INTO $upstream`:                       {},
		`FROM /messages/* WHERE (a = 'x') OR $body.b INTO $upstream`:               {},
		`FROM /messages/modules/m-1.2_3%20+x'/outputs/* WHERE true INTO $upstream`: {},
	} {
		table, err := New([]Def{{Name: "r", Text: text}})
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := table.Endpoints()[0]; got != want {
			t.Errorf("%s leads to %v, want %v", text, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                                       "FROM is expected here, found the end",
		"INTO $upstream":                                         "line 1, column 1: FROM is expected here, found 'INTO'",
		"SELECT a FROM /* INTO $upstream":                        "column 8: only '*' can be selected",
		"FROM messages INTO $upstream":                           "column 6: a source such as /messages/* is expected",
		"FROM /messages/ INTO $upstream":                         "column 22: INTO is expected here, found '$upstream'",
		"FROM // INTO $upstream":                                 "a name or '*' is expected here, found '/'",
		"FROM /messages/$edgeHub INTO $upstream":                 "a name or '*' is expected here",
		"FROM /messages/*":                                       "column 17: INTO is expected here, found the end",
		"FROM /messages/* INTO":                                  "$upstream or BrokeredEndpoint",
		"FROM /messages/* INTO upstream":                         "$upstream or BrokeredEndpoint",
		"FROM /messages/* INTO $downstream":                      "$upstream or BrokeredEndpoint",
		"FROM /messages/* INTO $upstream x":                      "the end of the route is expected",
		"FROM /messages/* WHERE INTO $upstream":                  "a value is expected here, found 'INTO'",
		"FROM /messages/*\nWHERE a > 5\nINTO $upstream":          "line 2, column 9: a string cannot be compared with a number",
		"FROM /messages/* WHERE IS_DEFINED(x) INTO $upstream":    "column 24: function IS_DEFINED is not supported yet",
		`FROM /* INTO BrokeredEndpoint("/modules/m/inputs")`:     "an endpoint is written",
		`FROM /* INTO BrokeredEndpoint("/modules/m/inputs/")`:    "an endpoint is written",
		`FROM /* INTO BrokeredEndpoint("/modules/m/inputs/i/j")`: "an endpoint is written",
		`FROM /* INTO BrokeredEndpoint("/modules/m/outputs/i")`:  "an endpoint is written",
		`FROM /* INTO BrokeredEndpoint(/modules/m/inputs/i)`:     "an endpoint is written",
		`FROM /* INTO BrokeredEndpoint "/modules/m/inputs/i"`:    "'(' is expected",
		`FROM /* INTO BrokeredEndpoint("/modules/m/inputs/i"`:    "')' is expected",
		`FROM /* INTO Function("/modules/m/inputs/i")`:           "BrokeredEndpoint",
	} {
		_, err := New([]Def{{Name: "good", Text: "FROM /* INTO $upstream"}, {Name: "bad", Text: text}})
		if err == nil || !strings.HasPrefix(err.Error(), `route "bad": line `) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestBestPriorityPerEndpoint(t *testing.T) {
	const filter = `BrokeredEndpoint("/modules/filter/inputs/in")`
	table, err := New([]Def{
		{Name: "low", Text: "FROM /messages/* INTO $upstream", Priority: DefaultPriority, TTL: time.Hour},
		{Name: "high", Text: "FROM /messages/* WHERE level = 'alert' INTO $upstream", Priority: 0},
		{Name: "middle", Text: "FROM /messages/* WHERE level = 'alert' OR level = 'warn' INTO $upstream", Priority: 5},
		{Name: "filter", Text: "FROM /messages/modules/sensor/* INTO " + filter, Priority: 9},
		{Name: "twin", Text: "FROM /twinChangeNotifications INTO $upstream", Priority: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	for level, want := range map[string]string{"alert": "high filter", "warn": "middle filter", "info": "low filter", "": "low filter"} {
		m := message.Message{Properties: []message.Property{{Name: "Level", Value: level}}}
		got := table.Match(nil, Source{Module: "sensor", Output: "o"}, &m)
		names := make([]string, len(got))
		for i, r := range got {
			names[i] = r.Name
			if table.Endpoints()[r.Index] != r.Endpoint {
				t.Errorf("route %s has a wrong index", r.Name)
			}
		}
		slices.SortFunc(names, func(a, b string) int { return -strings.Compare(a, b) })
		slices.Sort(names)
		wanted := strings.Fields(want)
		slices.Sort(wanted)
		if !slices.Equal(names, wanted) {
			t.Errorf("level %q takes %v, want %v", level, names, wanted)
		}
	}
	got := table.Match(nil, Source{Module: "sensor", TwinChange: true}, &message.Message{})
	if len(got) != 1 || got[0].Name != "twin" {
		t.Errorf("a twin change takes %v", got)
	}
}

func TestManyOutputsAreNotAllRemembered(t *testing.T) {
	table, err := New([]Def{{Name: "r", Text: "FROM /messages/* INTO $upstream"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxCached {
		if len(table.Match(nil, Source{Module: "m", Output: fmt.Sprint(i)}, &message.Message{})) != 1 {
			t.Fatalf("output %d is not routed", i)
		}
	}
	if n := len(*table.seen.Load()); n > maxCached {
		t.Errorf("%d sources remembered, the most is %d", n, maxCached)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`SELECT * FROM /messages/modules/a/outputs/* WHERE $body.t >= 5 AND NOT (x = "y") INTO BrokeredEndpoint('/modules/b/inputs/c')`,
		"FROM /* /* x */ INTO $upstream", "FROM /*/ INTO $upstream", "FROM /messages WHERE a\x00b = '\\u0041' INTO $upstream",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := New([]Def{{Name: "r", Text: text}})
		if err != nil {
			return
		}
		table.Match(nil, Source{Module: "a", Output: "o"}, &message.Message{Body: []byte(`{"t":5}`)})
		if e := table.Endpoints()[0]; !e.IsUpstream() && (e.Module == "" || e.Input == "") {
			t.Fatalf("endpoint %v", e)
		}
	})
}

// BenchmarkMatch routes a message of 256 bytes by a condition on its body, with more
// and more routes beside it that do not match (performance B8).
func BenchmarkMatch(b *testing.B) {
	m := &message.Message{
		Body:   []byte(`{"machine":{"temperature":51.2,"pressure":4.3},"ambient":{"temperature":21.0,"humidity":25},"pad":"` + strings.Repeat("x", 140) + `"}`),
		System: message.System{ContentType: "application/json", ContentEncoding: "utf-8"},
	}
	src := Source{Module: "sensor", Output: "temperatureOutput"}
	for _, c := range []struct {
		name, other string
	}{
		{"OtherSource", "FROM /messages/modules/other%d/* WHERE $body.machine.temperature > 1 INTO $upstream"},
		{"FalseCondition", "FROM /messages/* WHERE $body.machine.temperature > 1%03d INTO $upstream"},
	} {
		for _, n := range []int{1, 10, 100} {
			defs := []Def{{Name: "r", Text: `FROM /messages/modules/sensor/* WHERE $body.machine.temperature > 25 INTO BrokeredEndpoint("/modules/filter/inputs/in")`}}
			for i := range n - 1 {
				defs = append(defs, Def{Name: fmt.Sprint(i), Text: fmt.Sprintf(c.other, i)})
			}
			table, err := New(defs)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				dst := make([]*Route, 0, 8)
				for b.Loop() {
					if len(table.Match(dst, src, m)) != 1 {
						b.Fatal("not routed once")
					}
				}
			})
		}
	}
}
