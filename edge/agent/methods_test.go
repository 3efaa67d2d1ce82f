package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/edge/runtime"
	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/method"
)

// call invokes a direct method and gives status and payload as text.
func (a *agent) call(name, payload string) string {
	r := a.Invoke(a.world.t.Context(), &method.Call{Name: name, Payload: json.RawMessage(payload)})
	return fmt.Sprintf("%d %s", r.Status, r.Payload)
}

func TestMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", "")+`,"off":{"type":"process","status":"stopped","settings":{"command":"c"}},"box":{"type":"docker","status":"running","settings":{"image":"i"}}`)
		w.took()
		for _, c := range []struct{ name, payload, want string }{
			{"ping", ``, `200 null`},
			{"PING", `{"x":1}`, `200 null`},
			{"restartmodule", `{"schemaVersion":"1.0","id":"a"}`, `200 null`},
			{"RestartModule", `{"schemaVersion":"1.7","id":"a","items":5}`, `200 null`},
			{"RestartModule", `{"schemaVersion":"1.0","id":"pony"}`, `500 {"message":"there is no module \"pony\" in the deployment of this device"}`},
			{"RestartModule", `{"schemaVersion":"1.0","id":"off"}`, `500 {"message":"the deployment says that module off is stopped; set its status to running there"}`},
			{"RestartModule", `{"schemaVersion":"1.0","id":"box"}`, `500 {"message":"this gateway has no engine for modules of type docker"}`},
			{"RestartModule", `{"schemaVersion":"1.0","id":"edgeHub"}`, `500 {"message":"edgeHub is part of the edge itself; restart the edge instead"}`},
			{"RestartModule", `{"schemaVersion":"1.0"}`, `400 {"message":"id is missing: which module is to be restarted?"}`},
			{"RestartModule", `{"schemaVersion":"2.0","id":"a"}`, `400 {"message":"schemaVersion \"2.0\" is not supported; write \"1.0\""}`},
			{"RestartModule", `{"id":"a"}`, `400 {"message":"schemaVersion \"\" is not supported; write \"1.0\""}`},
			{"RestartModule", `{"schemaVersion":"1.0","id":5}`, `400 {"message":"id must not be a number"}`},
			{"RestartModule", `5`, `400 {"message":"the payload must be an object, not a number"}`},
			{"RestartModule", ``, `400 {"message":"the payload is not valid JSON: unexpected end of JSON input"}`},
			{"GetTaskStatus", `{"schemaVersion":"1.0","correlationId":"x"}`, `200 {"correlationId":"x","message":"","status":"Unknown"}`},
		} {
			w.expect(c.name+" "+c.payload, a.call(c.name, c.payload), c.want)
		}
		w.expect("calls", w.took(), "stop a, start a, stop a, start a")
		for name, want := range map[string]string{"UploadModuleLogs": "501 ", "UploadSupportBundle": "501 ", "pony": `400 {"message":"there is no method \"pony\"; there are ping, RestartModule,`} {
			if got := a.call(name, `{}`); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.noSync = context.DeadlineExceeded
		a := w.start()
		if err := a.Restart(t.Context(), "a"); !fault.Is(err, fault.ModuleNotFound) {
			t.Errorf("without a deployment: %v", err)
		}
		a.deploy(2, mod("a", ""))
		if err := a.Restart(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("without an identity: %v", err)
		}
		w.mu.Lock()
		w.noSync = nil
		w.mu.Unlock()
		a.Changed()
		pass(2 * time.Second)

		// A restart does not count, and ends a pause.
		w.crash("a", 1)
		pass(10 * time.Second)
		w.crash("a", 1)
		pass(time.Second)
		w.took()
		if err := a.Restart(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		pass(2 * time.Second)
		w.expect("calls and count", w.took()+w.at("modules", "a", "restartCount"), "start a1")

		w.mu.Lock()
		w.fails["start a"] = 1
		w.mu.Unlock()
		if err := a.Restart(t.Context(), "a"); err == nil || err.Error() != "cannot start a" {
			t.Errorf("a restart that fails: %v", err)
		}
		pass(10 * time.Second)
		w.expect("and is made up for", w.running(), "a")

		hang := make(chan struct{})
		w.mu.Lock()
		w.stuck["stop a"] = hang
		w.mu.Unlock()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Restart(short, "a"); !fault.Is(err, fault.GenericTimeout) {
			t.Errorf("too slow: %v", err)
		}
		results := make(chan error, maxWaiters)
		for range maxWaiters - 1 {
			go func() { results <- a.Restart(t.Context(), "a") }()
		}
		synctest.Wait()
		if err := a.Restart(t.Context(), "a"); !fault.Is(err, fault.TooManyInflight) {
			t.Errorf("too many: %v", err)
		}
		close(hang)
		for range maxWaiters - 1 {
			if err := <-results; err != nil {
				t.Errorf("one of many: %v", err)
			}
		}

		w.mu.Lock()
		w.stuck["stop a"] = make(chan struct{})
		w.mu.Unlock()
		go func() { results <- a.Restart(t.Context(), "a") }()
		synctest.Wait()
		go func() { results <- a.Restart(t.Context(), "a") }()
		synctest.Wait()
		w.mu.Lock()
		delete(w.stuck, "stop a")
		w.mu.Unlock()
		a.stop()
		for range 2 {
			if err := <-results; !fault.Is(err, fault.Unavailable) {
				t.Errorf("while stopping: %v", err)
			}
		}
		if err := a.Restart(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("after the stop: %v", err)
		}
	})
}

func TestModulesForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		if n := len(a.Modules()); n != 2 {
			t.Errorf("%d modules without a deployment", n)
		}
		pass(time.Second)
		a.deploy(2, mod("run", "")+","+mod("crash", "")+`,"job":{"type":"process","status":"running","restartPolicy":"never","settings":{"command":"/bin/job","args":["-x","1"]}},`+
			`"sensor":{"type":"process","status":"stopped","settings":{"builtin":"sensor"}},"box":{"type":"docker","status":"running","settings":{"image":"box:1"}}`)
		pass(time.Second)
		w.crash("job", 4)
		pass(2 * time.Minute)
		w.crash("crash", 1)
		synctest.Wait()
		var lines []string
		for _, m := range a.Modules() {
			lines = append(lines, fmt.Sprintf("%s|%s|%s|%d|%s|%s", m.Name, m.Status, m.Detail, m.Restarts, m.Started.Format(time.TimeOnly), m.Source))
		}
		w.expect("modules", strings.Join(lines, "\n"), `edgeAgent|running|Up 2 minutes|0|00:00:00|part of selvedge 0.1
edgeHub|running|Up 2 minutes|0|00:00:00|part of selvedge 0.1
box|failed|this gateway has no engine for modules of type docker|0|00:00:00|box:1
crash|backoff|it ended with code 1, next start at 2000-01-01T00:02:12Z|0|00:00:01|/bin/crash
job|failed|Failed (4) 2 minutes ago: it ended with code 4|0|00:00:01|/bin/job -x 1
run|running|Up 2 minutes|0|00:00:01|/bin/run
sensor|stopped|stopped|0|00:00:00|builtin sensor`)
		a.deploy(3, `"run":{"type":"process","status":"stopped","settings":{"command":"/bin/run"}}`)
		pass(26 * time.Hour)
		w.expect("stopped", a.Modules()[2].Detail, "Stopped 1 day ago")
	})
}

func TestLogsForPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", "")+`,"box":{"type":"docker","status":"running","settings":{"image":"i"}}`)
		w.logs["a"] = "one\ntwo\n"
		r, err := a.Logs(t.Context(), "a", runtime.LogQuery{Tail: 1})
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		w.expect("log", fmt.Sprint(string(text), err), "two\n<nil>")
		for module, want := range map[string]fault.Code{"pony": fault.ModuleNotFound, "box": fault.InvalidOperation, "edgeAgent": fault.InvalidOperation, "$edgeHub": fault.InvalidOperation} {
			if _, err := a.Logs(t.Context(), module, runtime.LogQuery{}); !fault.Is(err, want) {
				t.Errorf("log of %s: %v", module, err)
			}
		}
	})
}

func TestGetModuleLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("alpha", "")+","+mod("beta", "")+`,"box":{"type":"docker","status":"running","settings":{"image":"i"}}`)
		w.logs["alpha"] = "<6> 1999-12-31 23:00:00.000 +00:00 [INF] - early\nplain\n<3> 2000-01-01 00:00:00.500 +01:00 [ERR] - bad\n"
		w.logs["beta"] = "b1\nb2\n"
		const head = `{"schemaVersion":"1.0","items":`
		for _, c := range []struct{ payload, want string }{
			{head + `{"id":"all"}}`, `200 [{"id":"alpha","payload":"\u003c6\u003e 1999-12-31 23:00:00.000 +00:00 [INF] - early\nplain\n\u003c3\u003e 2000-01-01 00:00:00.500 +01:00 [ERR] - bad\n"},{"id":"beta","payload":"b1\nb2\n"},{"id":"box","payload":""}]`},
			{head + `[{"id":"BET","filter":{"tail":1}}]}`, `200 [{"id":"beta","payload":"b2\n"}]`},
			{head + `[{"id":"^a","filter":{"loglevel":3}},{"id":"all"}],"contentType":"json"}`, `200 [{"id":"alpha","payload":"[{\"device\":\"gw\",\"id\":\"alpha\",\"iothub\":\"hub.example.net\",\"loglevel\":3,\"stream\":\"stdout\",\"text\":\"[ERR] - bad\",\"timestamp\":\"1999-12-31T23:00:00.5Z\"}]"},` +
				`{"id":"beta","payload":"[{\"device\":\"gw\",\"id\":\"beta\",\"iothub\":\"hub.example.net\",\"loglevel\":6,\"stream\":\"stdout\",\"text\":\"b1\",\"timestamp\":null},{\"device\":\"gw\",\"id\":\"beta\",\"iothub\":\"hub.example.net\",\"loglevel\":6,\"stream\":\"stdout\",\"text\":\"b2\",\"timestamp\":null}]"},{"id":"box","payload":"[]"}]`},
			{head + `[{"id":"alpha","filter":{"regex":"l.i","until":"1 hour"}}]}`, `200 [{"id":"alpha","payload":"plain\n"}]`},
			{head + `[{"id":"alpha","filter":{"since":"60m","until":946681200,"regex":"early|bad"}}]}`, `200 [{"id":"alpha","payload":"\u003c6\u003e 1999-12-31 23:00:00.000 +00:00 [INF] - early\n"}]`},
			{head + `[{"id":"alpha","filter":{"until":"1999-12-31T23:00:00Z","regex":"early|bad"}}]}`, `200 [{"id":"alpha","payload":"\u003c6\u003e 1999-12-31 23:00:00.000 +00:00 [INF] - early\n"}]`},
			{head + `[{"id":"nobody"}]}`, `200 []`},
			{head + `[]}`, `400 {"message":"items must be an object or an array of objects such as {\"id\": \"all\", \"filter\": {\"tail\": 10}}"}`},
		} {
			w.expect(c.payload, a.call("GetModuleLogs", c.payload), c.want)
		}
	})
}

func TestLargeLogsAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", "")+","+mod("b", ""))
		var text strings.Builder
		random := rand.New(rand.NewPCG(1, 2)) // so that it does not compress away
		for i := range 6000 {
			fmt.Fprintf(&text, "line %d \"<%016x%016x%016x%016x>\"\n", i, random.Uint64(), random.Uint64(), random.Uint64(), random.Uint64())
		}
		w.logs["a"], w.logs["b"] = text.String(), strings.Repeat("x", 5*maxLine)
		for _, form := range []string{"", `,"contentType":"json"`, `,"encoding":"gzip"`} {
			r := a.Invoke(t.Context(), &method.Call{Name: "GetModuleLogs", Payload: json.RawMessage(`{"schemaVersion":"1.0","items":{"id":"a"}` + form + `}`)})
			if r.Status != 200 || len(r.Payload) > maxAnswer || len(r.Payload) < 20000 {
				t.Errorf("%s: status %d, %d bytes", form, r.Status, len(r.Payload))
			}
			var answer []struct {
				Payload string
				Bytes   []byte `json:"payloadBytes"`
			}
			if err := json.Unmarshal(r.Payload, &answer); err != nil {
				t.Fatal(err)
			}
			got := answer[0].Payload
			if answer[0].Bytes != nil {
				z, err := gzip.NewReader(bytes.NewReader(answer[0].Bytes))
				if err != nil {
					t.Fatal(err)
				}
				raw, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				got = string(raw)
			}
			if !strings.Contains(got, "line 5999 ") || !strings.Contains(got, leftOut) || strings.Contains(got, "line 0 ") {
				t.Errorf("%s: the wrong lines are left out", form)
			}
		}
		if got := a.call("GetModuleLogs", `{"schemaVersion":"1.0","items":{"id":"b"}}`); strings.Count(got, `\n`) < 3 {
			t.Errorf("a long line: %d bytes", len(got))
		}
	})
}

func TestParseLogsRequestRefuses(t *testing.T) {
	for text, where := range map[string]string{
		`{"items":{"id":"a"}}`:                                                         "schemaVersion",
		`{"schemaVersion":"1.0"}`:                                                      "items must be",
		`{"schemaVersion":"1.0","items":5}`:                                            "items must be",
		`{"schemaVersion":"1.0","items":{}}`:                                           "has no id",
		`{"schemaVersion":"1.0","items":{"id":"("}}`:                                   "no regular expression",
		`{"schemaVersion":"1.0","items":{"id":"a"},"encoding":"zip"}`:                  "encoding must be none or gzip",
		`{"schemaVersion":"1.0","items":{"id":"a"},"contentType":5}`:                   "contentType must not be a number",
		`{"schemaVersion":"1.0","items":{"id":"a"},"contentType":"x"}`:                 "contentType must be",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"tail":0}}}`:               "tail must be",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"loglevel":8}}}`:           "loglevel must be",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"regex":"["}}}`:            "no regular expression",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"since":"yesterday"}}}`:    "since must be",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"until":"3 parsecs"}}}`:    "until must be",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"until":{}}}}`:             "until must be",
		`{"schemaVersion":"1.0","items":{"id":"a","filter":{"since":"99999999999w"}}}`: "since must be",
	} {
		_, err := parseLogsRequest([]byte(text), noon)
		if !fault.Is(err, fault.ArgumentInvalid) || !strings.Contains(fault.TextOf(err), where) {
			t.Errorf("%s: %v, want %q", text, err, where)
		}
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "1 day": 24 * time.Hour, " 2 days 3 hours ": 51 * time.Hour, "1h30m": 90 * time.Minute, "2w": 336 * time.Hour, "5 Secs": 5 * time.Second} {
		if got, ok := parseSpan(text); !ok || got != want {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "5", "m", "-5m", "1.5h", "5 m x", "99999999999999999999d", "2000000000w 2000000000w"} {
		if got, ok := parseSpan(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseLogsRequest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":"1.0","items":[{"id":"a.*","filter":{"tail":5,"since":"1 day","until":5,"loglevel":3,"regex":"x"}}],"encoding":"gzip","contentType":"json"}`), "<6> 2026-01-01 12:00:00.000 +00:00 [INF] - text")
	f.Fuzz(func(t *testing.T, payload []byte, line string) {
		r, err := parseLogsRequest(payload, noon)
		if err != nil {
			if !fault.Is(err, fault.ArgumentInvalid) {
				t.Fatalf("%v is no fault for a client", err)
			}
			return
		}
		l := parseLine(line)
		if item := r.match("a"); item != nil {
			item.wants(l)
		}
		if l.raw != line || !strings.HasSuffix(line, l.text) || l.level < 0 || l.level > 7 {
			t.Fatalf("%q becomes %+v", line, l)
		}
	})
}
