package node

import (
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/storage/queue"
)

// operations answers health and metrics: it is alive as long as it answers, and ready
// when ready is closed.
func operations(ready <-chan struct{}, measure func(io.Writer) error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-ready:
			plain(w, http.StatusOK, "ready")
		default:
			plain(w, http.StatusServiceUnavailable, "starting")
		}
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = measure(w) // whoever asked has gone
	})
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // whoever asked has gone
}

// measure writes the figures, with the original's names where it has them
// (edge-runtime 5.2).
func (p *parts) measure(w io.Writer) error {
	m := newMetrics(w, "iothub", p.cfg.Provisioning.Hub, "edge_device", p.cfg.Provisioning.Device)
	got, sent, stats := p.broker.Counts(), p.link.Counts(), p.queue.Stats()
	m.sample("edgehub_messages_received_total", "counter", "Messages taken from modules and devices.", float64(got.Received))
	m.sample("edgehub_messages_sent_total", "counter", "Messages that the hub has acknowledged.", float64(sent.Sent), "to", "upstream")
	m.sample("edgehub_messages_dropped_total", "counter", "Messages given up, by reason.", float64(got.Unrouted), "reason", "no_route")
	m.sample("edgehub_messages_dropped_total", "counter", "", float64(stats.Expired), "reason", "ttl_expiry")
	m.sample("edgehub_messages_dropped_total", "counter", "", float64(stats.Dropped), "reason", "store_full")
	m.sample("edgehub_messages_dropped_total", "counter", "", float64(sent.Dropped), "reason", "refused_upstream")
	m.sample("edgehub_messages_unack_total", "counter", "Batches refused because the store is full.", float64(stats.Refused), "reason", "storage_failure")
	endpoints := p.queue.Endpoints()
	slices.SortFunc(endpoints, func(a, b *queue.Endpoint) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range endpoints {
		m.sample("edgehub_queue_length", "gauge", "Messages that wait, by endpoint.", float64(e.Len()), "endpoint", e.Name())
	}
	m.sample("selvedge_store_bytes", "gauge", "Disk that waiting messages take.", float64(stats.Bytes))
	m.sample("edgehub_connected_clients", "gauge", "Open connections of modules and devices.", float64(p.mqtt.Connections()+p.amqp.Connections()))
	up := 0.0
	if p.link.Online() {
		up = 1
	}
	m.sample("selvedge_link_up", "gauge", "Whether the hub can be reached.", up)
	m.sample("edgehub_offline_count_total", "counter", "How often the link to the hub was lost.", float64(p.outages.Load()))
	for _, s := range p.modules() {
		running := 0.0
		if s.Status == "running" {
			running = 1
		}
		m.sample("selvedge_module_running", "gauge", "Whether a module runs.", running, "module_name", s.Name)
	}
	return m.flush()
}
