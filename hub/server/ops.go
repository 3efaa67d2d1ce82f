package server

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ops answers what operators and their tools ask: is it well, is it ready, how much.
type ops struct {
	b       *backend
	db      *sql.DB
	started time.Time
	ready   atomic.Bool
}

// Limits of operations' peers.
const (
	opsTimeout = 10 * time.Second
	healthTime = 2 * time.Second // for the database to answer
)

// serve answers on l until ctx ends.
func (o *ops) serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", o.health)
	mux.HandleFunc("GET /readyz", o.readiness)
	mux.HandleFunc("GET /metrics", o.metrics)
	srv := &http.Server{Handler: mux, ReadTimeout: opsTimeout, WriteTimeout: opsTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	err := srv.Serve(l)
	if stop() {
		return fmt.Errorf("serve operations: %w", err)
	}
	return nil
}

// health says whether the hub can do its work at all: whoever watches it may start
// it anew when it cannot.
func (o *ops) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTime)
	defer cancel()
	var one int
	if err := o.db.QueryRowContext(ctx, "SELECT 1 FROM settings LIMIT 1").Scan(&one); err != nil {
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readiness says whether connections should be sent here.
func (o *ops) readiness(w http.ResponseWriter, _ *http.Request) {
	if !o.ready.Load() {
		http.Error(w, "starting or stopping", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (o *ops) metrics(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	m := metricsWriter{&b}
	c, calls := o.b.counters, o.b.methods.Counts()
	m.gauge("selvedge_hub_connections", "Devices and modules connected now.", float64(o.b.connected()))
	m.counter("selvedge_hub_connections_total", "Connections that were accepted.", c.attached.Load())
	m.counter("selvedge_hub_connections_refused_total", "Connections whose credentials were refused.", c.denied.Load())
	m.counter("selvedge_hub_messages_total", "Telemetry messages stored.", c.messages.Load())
	m.counter("selvedge_hub_message_bytes_total", "Size of the telemetry messages stored.", c.bytes.Load())
	m.counter("selvedge_hub_messages_refused_total", "Telemetry messages refused or not stored.", c.refused.Load())
	m.histogram("selvedge_hub_commit_seconds", "Time from the arrival of a batch of messages until it was on disk.", &c.commit)
	m.counter("selvedge_hub_deliveries_total", "Cloud-to-device messages sent to devices.", c.delivered.Load())
	m.counter("selvedge_hub_methods_answered_total", "Direct methods that their device answered.", calls.Answered)
	m.counter("selvedge_hub_methods_failed_total", "Direct methods that failed.", calls.Failed)
	m.gauge("selvedge_hub_methods_inflight", "Direct methods under way.", float64(calls.UnderWay))
	m.gauge("selvedge_hub_methods_listeners", "Devices and modules that listen for direct methods.", float64(calls.Listening))
	o.process(m)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // a client that went away needs no answer
}

// process writes what Prometheus' own libraries tell of a process.
func (o *ops) process(m metricsWriter) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	m.gauge("go_goroutines", "Number of goroutines that currently exist.", float64(runtime.NumGoroutine()))
	m.gauge("go_memstats_heap_alloc_bytes", "Bytes of heap objects.", float64(mem.HeapAlloc))
	m.gauge("go_memstats_sys_bytes", "Bytes obtained from the system.", float64(mem.Sys))
	m.counter("go_gc_cycles_total", "Completed garbage collections.", int64(mem.NumGC))
	m.gauge("process_start_time_seconds", "Start of the process since the Unix epoch.", float64(o.started.UnixMilli())/1e3)
	if rss, ok := residentBytes(); ok {
		m.gauge("process_resident_memory_bytes", "Resident memory.", rss)
	}
	if cpu, ok := cpuTime(); ok {
		m.value("process_cpu_seconds_total", "counter", "Processor time used, by user and system.", cpu.Seconds())
	}
}

// residentBytes is the resident memory where /proc tells it.
func residentBytes() (bytes float64, ok bool) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()), err == nil
}
