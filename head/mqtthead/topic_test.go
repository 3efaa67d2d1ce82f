package mqtthead

import (
	"testing"

	"github.com/selvedge-io/selvedge/model/bag"
	"github.com/selvedge-io/selvedge/model/ident"
)

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		id    ident.ID
		topic string
		kind  topicKind
		rest  string
	}{
		{dev, "devices/dev/messages/events/", telemetry, ""},
		{dev, "devices/dev/messages/events", telemetry, ""},
		{dev, "devices/dev/messages/events/a=b/", telemetry, "a=b/"},
		{dev, "DEVICES/dev/Messages/EVENTS/a=b", telemetry, "a=b"},
		{dev, "devices/DEV/messages/events/", foreign, ""},
		{dev, "devices/dev/modules/mod/messages/events/", foreign, ""},
		{dev, "devices/other/messages/events/", foreign, ""},
		{dev, "devices/dev2/messages/events/", foreign, ""},
		{dev, "devices/dev/messages/eventsx", foreign, ""},
		{dev, "devices/dev/messages/devicebound/", foreign, ""},
		{mod, "devices/dev/modules/mod/messages/events/%24.on=o/", telemetry, "%24.on=o/"},
		{mod, "devices/dev/modules/other/messages/events/", foreign, ""},
		{mod, "devices/dev/messages/events/", foreign, ""},
		{ident.ID{Device: "a+b#c"}, "devices/a+b#c/messages/events/x", telemetry, "x"},
		{dev, "$iothub/twin/GET/?$rid=1", twinRead, "?$rid=1"},
		{dev, "$IoTHub/Twin/get/?$rid=1", twinRead, "?$rid=1"},
		{dev, "$iothub/twin/PATCH/properties/reported/?$rid=1", twinReport, "?$rid=1"},
		{dev, "$iothub/methods/res/200/?$rid=1", methodAnswer, "200/?$rid=1"},
		{dev, "$iothub/twin/res/200/?$rid=1", foreign, ""},
		{dev, "$iothub/", foreign, ""},
		{dev, "home/kitchen", foreign, ""},
		{dev, "devices/", foreign, ""},
	} {
		kind, rest := classify(test.topic, test.id)
		if kind != test.kind || kind != foreign && rest != test.rest {
			t.Errorf("%v: classify(%q) = %v %q, want %v %q", test.id, test.topic, kind, rest, test.kind, test.rest)
		}
	}
}

func TestClassifyFilter(t *testing.T) {
	const refused = grantKinds
	for _, test := range []struct {
		id     ident.ID
		filter string
		want   grantKind
	}{
		{dev, "devices/dev/messages/devicebound/#", grantToDevice},
		{dev, "devices/dev/messages/deviceBound/#", grantToDevice},
		{dev, "devices/dev/messages/events/#", grantNothing},
		{dev, "devices/dev/#", grantNothing},
		{dev, "devices/other/messages/devicebound/#", refused},
		{dev, "devices/+/messages/devicebound/#", refused},
		{dev, "#", refused},
		{dev, "+/+", refused},
		{dev, "home/#", refused},
		{dev, "$SYS/#", refused},
		{dev, "$iothub/twin/res/#", grantTwin},
		{dev, "$iothub/twin/PATCH/properties/desired/#", grantDesired},
		{dev, "$iothub/methods/POST/#", grantMethods},
		{dev, "$iothub/methods/POST/reboot/#", grantMethods},
		{dev, "$iothub/unheard/of/#", grantNothing},
		{dev, "$iothub/#/x", refused},
		{dev, "$iothub/a#", refused},
		{mod, "devices/dev/modules/mod/#", grantInputs},
		{mod, "devices/dev/modules/mod/inputs/#", grantInputs},
		{mod, "devices/dev/modules/mod/inputs/in1/#", grantInputs},
		{mod, "devices/dev/modules/mod/messages/devicebound/#", grantNothing},
		{mod, "devices/dev/modules/other/#", refused},
		{mod, "devices/dev/messages/devicebound/#", refused},
	} {
		got, ok := classifyFilter(test.filter, test.id)
		if !ok {
			got = refused
		}
		if got != test.want {
			t.Errorf("%v: %q grants %d, want %d", test.id, test.filter, got, test.want)
		}
	}
}

func TestParseQueryAndAnswer(t *testing.T) {
	for _, test := range []struct {
		in   string
		want query
		ok   bool
	}{
		{"", query{}, true},
		{"?", query{}, true},
		{"?$rid=1", query{rid: "1", hasRID: true}, true},
		{"?$rid=a-b&$version=5", query{rid: "a-b", hasRID: true, version: "5"}, true},
		{"?$version=5&$RID=%24", query{rid: "%24", hasRID: true, version: "5"}, true},
		{"?$rid=", query{hasRID: true}, true},
		{"x", query{}, false},
	} {
		if got, ok := parseQuery(test.in); got != test.want || ok != test.ok {
			t.Errorf("parseQuery(%q) = %+v, %v, want %+v, %v", test.in, got, ok, test.want, test.ok)
		}
	}
	if status, ok, rid := parseAnswer("-7/?$rid=x"); status != -7 || !ok || rid != "x" {
		t.Errorf("answer: %d %v %q", status, ok, rid)
	}
	if _, ok, rid := parseAnswer("ok/?$rid=x"); ok || rid != "x" {
		t.Errorf("answer without status: %v %q", ok, rid)
	}
}

func FuzzTopic(f *testing.F) {
	f.Add("devices/dev/modules/mod/messages/events/a=b")
	f.Add("$iothub/twin/PATCH/properties/reported/?$rid=1&$version=2")
	f.Add("$iothub/methods/res/200/?$rid=1")
	f.Add("devices/dev/modules/mod/inputs/#")
	f.Fuzz(func(t *testing.T, topic string) {
		for _, id := range []ident.ID{dev, mod} {
			kind, rest := classify(topic, id)
			if kind == telemetry {
				var b bag.Bag
				b.Parse(rest, bag.FromDevice)
			}
			if kind == methodAnswer {
				parseAnswer(rest)
			}
			parseQuery(rest)
			if grant, ok := classifyFilter(topic, id); ok && grant == grantMethods {
				methodOf(topic)
			}
		}
	})
}
