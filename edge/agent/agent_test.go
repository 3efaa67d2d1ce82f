package agent

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/twin"
)

func TestFirstDeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		w.expect("nothing is wanted", w.took(), "")
		pass(time.Second)
		w.expect("code without a deployment", w.at("lastDesiredStatus", "code"), "417")
		w.expect("no version", w.at("lastDesiredVersion"), "nothing")

		a.deploy(2, mod("b", `,"startupOrder":1,"env":{"A":{"value":"x"},"RuntimeLogLevel":{"value":"mine"}}`)+","+mod("a", `,"startupOrder":2`))
		w.expect("calls", w.took(), "start b, start a")
		w.expect("syncs", strings.Join(w.syncs, "; "), "a b - ")
		env, err := json.Marshal(w.modules["b"].spec.Env)
		if err != nil {
			t.Fatal(err)
		}
		w.expect("environment", string(env), `{"A":"x","IOTEDGE_APIVERSION":"2022-08-03","IOTEDGE_AUTHSCHEME":"sasToken","IOTEDGE_DEVICEID":"gw",`+
			`"IOTEDGE_GATEWAYHOSTNAME":"gw.local","IOTEDGE_IOTHUBHOSTNAME":"hub.example.net","IOTEDGE_MODULEGENERATIONID":"g-b-2","IOTEDGE_MODULEID":"b",`+
			`"IOTEDGE_WORKLOADURI":"unix:///run/b.sock","RuntimeLogLevel":"mine","SELVEDGE_GATEWAY_MQTT":"mqtts://gw.local:18883"}`)
		pass(time.Second)
		w.expect("status", w.at("lastDesiredStatus")+w.at("lastDesiredVersion"), `{"code":200,"description":""}2`)
		w.expect("a runs", w.at("modules", "a", "runtimeStatus"), `"running"`)
		if n := len(w.reports); n > 3 {
			t.Errorf("%d reports for two changes: %s", n, w.reports)
		}
	})
}

// TestReported holds the reported properties to testdata/reported.json (edge-runtime 1.11).
func TestReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.reported, _ = twin.Parse([]byte(`{"modules":{"old":{"type":"docker"}},"stale":true}`))
		a := w.start()
		defer a.stop()
		a.mustDesire(`{"schemaVersion":"1.1","runtime":{"type":"docker","settings":{"minDockerVersion":"v1.25","loggingOptions":"",
			"registryCredentials":{"r":{"address":"r.example","username":"u","password":"secret"}}}},
			"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":"agent:1","createOptions":"{}"},"env":{"RuntimeLogLevel":{"value":"debug"}}},
				"edgeHub":{"type":"docker","status":"running","restartPolicy":"always","startupOrder":0,"settings":{"image":"hub:1"}}},
			"modules":{"sensor":{"version":"1.0","type":"process","status":"running","restartPolicy":"always","imagePullPolicy":"never","startupOrder":1,
					"settings":{"builtin":"sensor","args":["--fast"]},"env":{"A":{"value":5}}},
				"job":{"type":"process","status":"running","restartPolicy":"never","settings":{"command":"/bin/job"}},
				"box":{"type":"docker","status":"running","restartPolicy":"always","settings":{"image":"box:1","createOptions":"{\"User\":","createOptions01":"\"u\"}"}}},
			"$version":12}`)
		w.crash("job", 3)
		pass(2 * time.Second)
		w.crash("sensor", 1)
		pass(12 * time.Second)
		w.mu.Lock()
		doc := w.reported.Without("runtime").With("runtime", twin.Of(w.reported.Child("runtime").Without("platform")))
		w.mu.Unlock()
		var out any
		if err := json.Unmarshal(doc.AppendJSON(nil), &out); err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(out, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		const file = "testdata/reported.json"
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		w.expect("reported", string(got), strings.TrimSpace(string(want)))
		w.expect("level of modules", w.modules["sensor"].spec.Env["RuntimeLogLevel"], "Debug")
		for _, member := range []string{"os", "architecture", "version"} {
			if w.at("runtime", "platform", member) == "nothing" {
				t.Errorf("platform has no %s", member)
			}
		}
	})
}

func TestOfflineStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.deploy(2, mod("a", "")+","+mod("b", ""))
		a.stop()
		if w.running() != "" {
			t.Fatalf("after the stop there run %s", w.running())
		}
		if strings.Contains(string(w.kept[keyDeployment]), "schemaVersion") {
			t.Error("the kept deployment is not sealed")
		}
		w.took()
		w.offline, w.noSync = true, errors.New("no hub")
		begin, reports := time.Now(), len(w.reports)
		a = w.start()
		w.expect("modules at once", w.running(), "a b")
		if d := time.Since(begin); d > time.Second {
			t.Errorf("that took %v", d)
		}
		pass(time.Minute)
		if len(w.reports) != reports {
			t.Errorf("reported without having read the twin: %s", w.reports[reports:])
		}
		w.mu.Lock()
		w.offline, w.noSync = false, nil
		w.mu.Unlock()
		a.Changed()
		pass(2 * time.Second)
		w.expect("code", w.at("lastDesiredStatus", "code")+w.at("modules", "a", "runtimeStatus"), `200"running"`)
		a.stop()
	})
}

func TestDamagedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.deploy(2, mod("a", ""))
		a.stop()
		w.kept[keyDeployment], w.kept[keyRecords] = []byte("x"), []byte("y")
		w.offline = true
		a = w.start()
		w.expect("nothing is known, nothing touched", w.running(), "")
		w.mu.Lock()
		w.offline = false
		w.mu.Unlock()
		a.Changed()
		pass(time.Second)
		w.expect("it comes with the twin", w.running(), "a")
		a.stop()
	})
}

func TestCrashesAndBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.deploy(2, mod("a", "")+","+mod("b", ""))
		pass(time.Second)
		w.took()
		for _, pause := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			w.crash("a", 1)
			pass(2 * time.Second)
			w.expect("it waits", w.at("modules", "a", "runtimeStatus"), `"backoff"`)
			pass(pause*time.Second - 3*time.Second)
			w.expect("nothing yet", w.took(), "")
			pass(time.Second)
			w.expect("start after the pause", w.took(), "start a")
		}
		pass(2 * time.Second)
		w.expect("count", w.at("modules", "a", "restartCount"), "7")
		w.expect("the code stays", w.at("lastDesiredStatus", "code"), "200")
		w.expect("b was left alone", w.at("modules", "b", "restartCount"), "0")

		a.stop() // the count outlasts us
		a = w.start()
		pass(2 * time.Second)
		w.expect("count after a start", w.at("modules", "a", "restartCount"), "7")
		pass(10 * time.Minute)
		w.expect("count after good minutes", w.at("modules", "a", "restartCount"), "0")
		a.stop()
	})
}

func TestSettingsOfTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start(func(c *Config) {
			c.Env = map[string]string{"maxrestartcount": "9", "CoolOffTimeUnitInSeconds": "1", "IntensiveCareTimeInMinutes": "soon"}
		})
		defer a.stop()
		a.mustDesire(`{"schemaVersion":"1.1","runtime":{"type":"docker"},"systemModules":{"edgeAgent":{"type":"docker","settings":{"image":"a"},
			"env":{"MaxRestartCount":{"value":"1"},"UpstreamProtocol":{"value":"AmqpWs"}}}},"modules":{` + mod("a", "") + `},"$version":2}`)
		pass(time.Second)
		w.crash("a", 1)
		pass(time.Second)
		w.expect("restarted after a second", w.running(), "a")
		w.crash("a", 1)
		pass(time.Hour)
		w.expect("given up", w.at("modules", "a", "runtimeStatus")+w.at("modules", "a", "exitCode"), `"failed"1`)
		w.expect("protocol", w.modules["a"].spec.Env["UpstreamProtocol"], "AmqpWs")
	})
}

func TestBadDeploymentChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.deploy(2, mod("a", ""))
		pass(2 * time.Second)
		w.took()
		for _, c := range []struct{ desired, code string }{
			{`{"schemaVersion":"1.1","runtime":{"type":"docker"},"modules":{"a":{"type":"process"}},"$version":3}`, "400"},
			{`{"schemaVersion":"2.0","runtime":{"type":"docker"},"$version":4}`, "412"},
			{`{"$version":5}`, "417"},
		} {
			a.mustDesire(c.desired)
			pass(2 * time.Second)
			w.expect("code of "+c.desired, w.at("lastDesiredStatus", "code")+w.at("lastDesiredVersion"), c.code+"2")
			w.expect("running", w.running()+w.took(), "a")
		}
		if !strings.Contains(w.reports[1], "modules.a.settings: it is missing") {
			t.Errorf("the report does not say what is wrong: %s", w.reports)
		}
		a.stop()
		w.took()
		a = w.start() // the last good one outlasts us
		pass(2 * time.Second)
		w.expect("calls", w.took(), "start a")
		w.expect("code", w.at("lastDesiredStatus", "code")+w.at("lastDesiredVersion"), "4172")
		a.deploy(6, mod("a", ""))
		pass(2 * time.Second)
		w.expect("good again", w.at("lastDesiredStatus", "code")+w.at("lastDesiredVersion")+w.took(), "2006")
		a.stop()
	})
}

func TestChangesOfADeployment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", "")+","+mod("b", "")+","+mod("c", ""))
		pass(2 * time.Second)
		w.took()
		// a gets another environment, b another policy and order, c goes.
		a.deploy(3, mod("a", `,"env":{"X":{"value":"1"}}`)+`,"b":{"type":"process","status":"running","restartPolicy":"never","startupOrder":3,"settings":{ "command" : "/bin/b" }}`)
		w.expect("calls", w.took(), "remove c, start a")
		pass(2 * time.Second)
		w.expect("report", w.at("lastDesiredVersion")+w.at("modules", "c")+w.at("modules", "b", "restartPolicy"), `3nothing"never"`)
		if last := w.reports[len(w.reports)-1]; !strings.Contains(last, `"c":null`) || strings.Contains(last, "platform") {
			t.Errorf("last report %s", last)
		}
		w.expect("syncs", strings.Join(w.syncs, "; "), "a b c - ; a b - c")
		if _, ok := w.sockets["c"]; ok {
			t.Error("the socket of c is still there")
		}
		if strings.Contains(string(w.kept[keyRecords]), `"c"`) {
			t.Errorf("c is still on record: %s", w.kept[keyRecords])
		}
		// status alone stops and starts, without a new version.
		version := w.modules["b"].Version
		a.deploy(4, mod("a", `,"env":{"X":{"value":"1"}}`)+`,"b":{"type":"process","status":"stopped","restartPolicy":"never","settings":{"command":"/bin/b"}}`)
		w.expect("calls", w.took(), "stop b")
		pass(time.Hour)
		w.expect("stays stopped", w.running()+w.at("modules", "b", "runtimeStatus"), `a"stopped"`)
		a.deploy(5, mod("a", `,"env":{"X":{"value":"1"}}`)+`,"b":{"type":"process","status":"running","restartPolicy":"never","settings":{"command":"/bin/b"}}`)
		w.expect("calls", w.took(), "start b")
		w.expect("version", w.modules["b"].Version, version)
		w.crash("b", 0)
		pass(time.Hour)
		w.expect("never is never", w.running()+w.took(), "a")
	})
}

func TestOneModulesTroubleIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails["start bad"], w.fails["socket deaf"] = 2, 1
		hang := make(chan struct{})
		w.stuck["start slow"] = hang
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("bad", `,"startupOrder":1`)+","+mod("deaf", `,"startupOrder":1`)+","+mod("good", `,"startupOrder":2`)+
			`,"slow":{"type":"process","status":"running","settings":{"command":"slow"}},"box":{"type":"docker","status":"running","settings":{"image":"i"}}`)
		w.expect("running", w.running(), "good")
		pass(2 * time.Second)
		w.expect("not settled as long as slow was not tried", w.at("lastDesiredVersion"), "nothing")
		w.expect("box", w.at("modules", "box", "runtimeStatus")+w.at("modules", "box", "statusDescription"), `"failed""this gateway has no engine for modules of type docker"`)
		w.crash("good", 1)
		pass(9 * time.Second) // 11 since the first attempt
		w.expect("running after a second attempt", w.running(), "deaf")
		pass(time.Second)
		w.expect("a crash is seen to meanwhile", w.running(), "deaf good")
		close(hang)
		pass(2 * time.Second)
		w.expect("version", w.at("lastDesiredVersion"), "2")
		for _, part := range []string{`"code":500`, "bad: cannot start bad", "box: this gateway has no engine"} {
			if status := w.at("lastDesiredStatus"); !strings.Contains(status, part) {
				t.Errorf("status %s lacks %s", status, part)
			}
		}
		w.expect("bad", w.at("modules", "bad", "runtimeStatus"), `"backoff"`)
		pass(20 * time.Second)
		w.expect("running after the third attempt", w.running(), "bad deaf good slow")
		a.deploy(3, mod("bad", `,"startupOrder":1`))
		pass(2 * time.Second)
		w.expect("well", w.at("lastDesiredStatus"), `{"code":200,"description":""}`)
	})
}

func TestABadUpdateIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", ""))
		pass(2 * time.Second)
		w.fails["start a"] = 100
		a.deploy(3, mod("a", `,"version":"2"`))
		pass(2 * time.Second)
		w.expect("it runs as before", w.at("modules", "a", "runtimeStatus")+w.at("lastDesiredStatus", "code"), `"running"500`)
		w.expect("text", w.at("modules", "a", "statusDescription"), `"it runs as before: cannot start a"`)
		a.deploy(4, mod("a", ""))
		pass(2 * time.Second)
		w.expect("all is well", w.at("modules", "a", "statusDescription")+w.at("lastDesiredStatus", "code"), `"running"200`)
		w.mu.Lock()
		w.fails["start a"] = 0
		w.mu.Unlock()
		w.crash("a", 1)
		pass(9 * time.Second)
		w.expect("an end is an end", w.running(), "")
		pass(time.Second)
		w.expect("with its pause", w.running(), "a")
	})
}

func TestStopAndStartAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.deploy(2, mod("a", `,"startupOrder":1`)+","+mod("b", `,"startupOrder":2`)+`,"c":{"type":"process","status":"running","restartPolicy":"never","settings":{"command":"c"}}`)
		pass(2 * time.Second)
		w.took()
		a.stop()
		w.expect("reverse order", w.took(), "stop c, stop b, stop a")
		w.expect("report", w.at("lastDesiredStatus")+w.at("modules", "a", "runtimeStatus")+w.at("systemModules", "edgeHub", "runtimeStatus"),
			`{"code":406,"description":"the agent is not running"}"unknown""unknown"`)
		time.Sleep(time.Hour)
		a = w.start()
		w.expect("all again, in order", w.took(), "start a, start b, start c")
		pass(2 * time.Second)
		w.expect("uncounted", w.at("modules", "a", "restartCount")+w.at("modules", "a", "runtimeStatus")+w.at("lastDesiredStatus", "code"), `0"running"200`)
		a.stop()
	})
}

func TestModulesAreAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		keep := func(c *Config) { c.KeepModules = true }
		a := w.start(keep)
		a.deploy(2, mod("a", "")+","+mod("b", "")+","+mod("c", ""))
		a.stop()
		w.took()
		w.expect("they run on", w.running(), "a b c")
		w.crash("b", -1) // nobody saw it
		delete(w.sockets, "a")
		time.Sleep(time.Minute)
		a = w.start(keep)
		w.expect("only b is started, at once", w.took(), "start b")
		w.expect("the socket is there again", w.sockets["a"], "g-a-1")
		a.stop()
	})
}

func TestGenerationChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start()
		a.deploy(2, mod("a", ""))
		a.stop()
		w.took()
		w.ids["a"] = "other"
		hang := make(chan struct{})
		w.stuck["sync"] = hang
		a = w.start()
		w.expect("it does not wait for the hub", w.took(), "start a")
		close(hang)
		synctest.Wait()
		w.expect("it is replaced once the hub says so", w.took(), "start a")
		if strings.Contains(string(w.kept[keyRecords]), "halted") {
			t.Errorf("it runs and is on record as halted: %s", w.kept[keyRecords])
		}
		w.expect("generation", w.modules["a"].spec.Env["IOTEDGE_MODULEGENERATIONID"]+w.sockets["a"], "otherother")
		a.stop()
	})
}

func TestIdentitiesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.noSync = errors.New("no hub")
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", ""))
		pass(2 * time.Second)
		w.expect("status", w.at("lastDesiredStatus"), `{"code":500,"description":"identities of modules: no hub"}`)
		w.expect("module", w.at("modules", "a", "statusDescription"), `"it waits for its identity"`)
		w.mu.Lock()
		w.noSync = nil
		w.mu.Unlock()
		a.Changed() // the link is back: no need to wait for the next attempt
		pass(2 * time.Second)
		w.expect("running", w.running()+w.at("lastDesiredStatus", "code"), "a200")
		w.mu.Lock()
		w.noSync = errors.New("no hub")
		w.mu.Unlock()
		a.deploy(3, mod("b", ""))
		pass(time.Minute)
		w.mu.Lock()
		w.noSync = nil
		w.mu.Unlock()
		pass(5 * time.Minute)
		w.expect("running", w.running(), "b")
		w.expect("last sync", w.syncs[len(w.syncs)-1], "b - a")
	})
}

func TestOldDeploymentsCountNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan struct{})
		w.stuck["start a"] = hang
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", ""))
		a.deploy(3, mod("a", `,"env":{"NEW":{"value":"1"}}`))
		w.mu.Lock()
		delete(w.stuck, "start a")
		w.mu.Unlock()
		close(hang)
		synctest.Wait()
		w.expect("environment", w.modules["a"].spec.Env["NEW"], "1")
		w.expect("calls", w.took(), "start a, start a")

		hang = make(chan struct{})
		w.mu.Lock()
		w.stuck["start b"] = hang
		w.mu.Unlock()
		a.deploy(4, mod("b", ""))
		a.deploy(5, "")
		w.expect("it is not removed while it starts", w.took(), "remove a, start b")
		close(hang)
		synctest.Wait()
		w.expect("calls", w.took()+w.running(), "remove b")
		pass(2 * time.Second)
		w.expect("status", w.at("lastDesiredStatus", "code")+w.at("lastDesiredVersion")+w.at("modules"), "2005{}")
	})
}

func TestEngineTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails["list"], w.fails["watch"] = 3, 2
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", ""))
		w.expect("nothing is started before it is known what runs", w.took(), "")
		pass(time.Second / 2)
		w.expect("module", w.at("modules", "a", "runtimeStatus"), `"unknown"`)
		pass(10 * time.Second)
		w.expect("running", w.running(), "a")
		w.crash("a", 1)
		pass(11 * time.Second)
		w.expect("the watch works again", w.running(), "a")
	})
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails["put"] = 1000
		a := w.start()
		a.deploy(2, mod("a", ""))
		w.expect("modules run all the same", w.running(), "a")
		a.stop()
	})
}

func TestReportThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.refuse = func(patch *twin.Object) error {
			if twin.Size(patch) > 1000 {
				return fault.New(fault.ArgumentInvalid, "reported properties are too large")
			}
			return nil
		}
		a := w.start()
		defer a.stop()
		a.deploy(2, mod("a", "")+","+mod("b", "")+","+mod("c", ""))
		pass(2 * time.Second)
		w.expect("minimal", w.at("lastDesiredStatus", "code")+w.at("lastDesiredVersion")+w.at("modules", "a"), "5002nothing")
		n := len(w.reports)
		w.crash("a", 1)
		pass(2 * time.Second)
		if len(w.reports) != n {
			t.Errorf("the same is reported again: %s", w.reports[n:])
		}
		w.mu.Lock()
		w.refuse = func(*twin.Object) error { return errors.New("later") }
		w.mu.Unlock()
		w.crash("b", 1)
		pass(2 * time.Second)
		w.mu.Lock()
		w.refuse = nil
		w.mu.Unlock()
		pass(time.Minute)
		w.expect("all of it in the end", w.at("lastDesiredStatus", "code")+w.at("modules", "b", "restartCount"), "2001")
	})
}
