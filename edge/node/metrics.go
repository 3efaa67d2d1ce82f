package node

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// metrics writes the Prometheus text format. All samples of one name must follow each
// other.
type metrics struct {
	w      io.Writer
	common string // labels of every sample, escaped
	last   string
	buf    bytes.Buffer
}

// newMetrics makes a writer; common are names and values in turn.
func newMetrics(w io.Writer, common ...string) *metrics {
	return &metrics{w: w, common: labels(common)}
}

// sample writes one value; labels are names and values in turn.
func (m *metrics) sample(name, kind, help string, value float64, with ...string) {
	if name != m.last {
		fmt.Fprintf(&m.buf, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		m.last = name
	}
	all := m.common
	if own := labels(with); own != "" {
		all = strings.TrimPrefix(all+","+own, ",")
	}
	if all != "" {
		all = "{" + all + "}"
	}
	fmt.Fprintf(&m.buf, "%s%s %v\n", name, all, value)
}

func (m *metrics) flush() error {
	_, err := m.w.Write(m.buf.Bytes())
	return err
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func labels(pairs []string) string {
	var parts []string
	for i := 0; i+1 < len(pairs); i += 2 {
		parts = append(parts, pairs[i]+`="`+escaper.Replace(pairs[i+1])+`"`)
	}
	return strings.Join(parts, ",")
}
