package server

import (
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"
)

// counters count what the backend does.
type counters struct {
	attached  atomic.Int64 // connections since the start
	denied    atomic.Int64 // claims refused
	messages  atomic.Int64 // telemetry that became durable
	bytes     atomic.Int64
	refused   atomic.Int64 // telemetry that did not
	delivered atomic.Int64 // cloud-to-device messages sent, again or for the first time
	commit    histogram    // from arrival of a batch until it was durable
}

// bounds of the histogram's buckets.
var bounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond,
}

// histogram counts durations by size.
type histogram struct {
	counts [len(bounds) + 1]atomic.Int64
	sum    atomic.Int64 // nanoseconds
}

func (h *histogram) observe(d time.Duration) {
	n := 0
	for n < len(bounds) && d > bounds[n] {
		n++
	}
	h.counts[n].Add(1)
	h.sum.Add(int64(d))
}

// metricsWriter writes Prometheus' text format, version 0.0.4.
type metricsWriter struct{ to io.Writer }

// value writes a metric without labels. A failed write is the client's loss.
func (w metricsWriter) value(name, kind, help string, v float64) {
	fmt.Fprintf(w.to, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, help, name, kind, name, number(v))
}

func (w metricsWriter) counter(name, help string, v int64) {
	w.value(name, "counter", help, float64(v))
}

func (w metricsWriter) gauge(name, help string, v float64) { w.value(name, "gauge", help, v) }

func (w metricsWriter) histogram(name, help string, h *histogram) {
	fmt.Fprintf(w.to, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name)
	total := int64(0)
	for n := range h.counts {
		total += h.counts[n].Load()
		le := "+Inf"
		if n < len(bounds) {
			le = number(bounds[n].Seconds())
		}
		fmt.Fprintf(w.to, "%s_bucket{le=%q} %d\n", name, le, total)
	}
	fmt.Fprintf(w.to, "%s_sum %s\n%s_count %d\n", name, number(time.Duration(h.sum.Load()).Seconds()), name, total)
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
