package node

import (
	"strings"
	"testing"
)

func TestMetricsText(t *testing.T) {
	var got strings.Builder
	m := newMetrics(&got, "edge_device", `a"b\c`)
	m.sample("x_total", "counter", "Things.", 3, "kind", "one\ntwo")
	m.sample("x_total", "counter", "Things.", 4e9)
	m.sample("up", "gauge", "Up.", 1)
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	want := `# HELP x_total Things.
# TYPE x_total counter
x_total{edge_device="a\"b\\c",kind="one\ntwo"} 3
x_total{edge_device="a\"b\\c"} 4e+09
# HELP up Up.
# TYPE up gauge
up{edge_device="a\"b\\c"} 1
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}
