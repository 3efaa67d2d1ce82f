// Package show prints what commands answer: aligned tables for people, JSON and
// YAML for programs, and progress that only a terminal sees.
package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
	"gopkg.in/yaml.v3"
)

// Format is how answers are printed.
type Format string

// The formats of --output.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// ParseFormat reads the value of --output.
func ParseFormat(s string) (Format, error) {
	switch f := Format(strings.ToLower(s)); f {
	case Table, JSON, YAML:
		return f, nil
	}
	return "", Usagef("unknown output format %q: use table, json or yaml", s)
}

// Printer writes answers to Out and notes to Err.
type Printer struct {
	Out    io.Writer
	Err    io.Writer
	Format Format
	Quiet  bool // no notes and no progress
}

// Rows is a table: a header and its lines.
type Rows struct {
	Header []string
	Lines  [][]string
}

// Add appends a line. Empty cells show as "-", so that columns stay readable.
func (r *Rows) Add(cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	r.Lines = append(r.Lines, cells)
}

// Answer prints raw, a JSON document, as JSON or YAML, or calls table for people.
// A nil table prints indented JSON to people too.
func (p *Printer) Answer(raw []byte, table func() (*Rows, error)) error {
	switch {
	case p.Format == YAML:
		return p.yaml(raw)
	case p.Format == JSON || table == nil:
		return p.json(raw)
	}
	rows, err := table()
	if err != nil {
		return err
	}
	return p.rows(rows)
}

func (p *Printer) json(raw []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, SafeJSON(raw), "", "  "); err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	out.WriteByte('\n')
	_, err := p.Out.Write(out.Bytes())
	return err
}

// yaml goes through yaml's own parser, which reads JSON and keeps the order of keys.
func (p *Printer) yaml(raw []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(SafeJSON(raw), &doc); err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	plain(&doc)
	out, err := yaml.Marshal(&doc)
	if err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	_, err = p.Out.Write(out)
	return err
}

// plain drops JSON's flow style and quotes, so that the output reads as YAML.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

func (p *Printer) rows(r *Rows) error {
	w := tabwriter.NewWriter(p.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(r.Header, "\t"))
	for _, line := range r.Lines {
		for i, cell := range line {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, Visible(cell))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// Note tells a person something beside the answer; pipes and --quiet never see it.
func (p *Printer) Note(format string, args ...any) {
	if !p.Quiet {
		fmt.Fprintf(p.Err, format+"\n", args...)
	}
}

// Text prints a bare line as the answer.
func (p *Printer) Text(s string) error {
	_, err := fmt.Fprintln(p.Out, s)
	return err
}

// Terminal says whether w is a terminal.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Logger writes text logs, for people at a terminal and for journals alike.
func Logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
