// Package route reads the routes of an edge deployment, FROM source WHERE condition
// INTO endpoint (edge-runtime 4.1), and finds for each message where it goes.
package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/lang/expr"
	"github.com/selvedge-io/selvedge/model/message"
)

// DefaultPriority is the priority of a route that names none: lower than all named
// ones, which run from 0, the highest, to 9.
const DefaultPriority = 10

// Endpoint is where a route leads: the hub above for the zero value, else an input of
// a module.
type Endpoint struct {
	Module, Input string
}

// IsUpstream says whether the endpoint is $upstream.
func (e Endpoint) IsUpstream() bool { return e == Endpoint{} }

// String is the endpoint as a route writes it.
func (e Endpoint) String() string {
	if e.IsUpstream() {
		return "$upstream"
	}
	return "/modules/" + e.Module + "/inputs/" + e.Input
}

// Def is a route as it is configured.
type Def struct {
	Name     string
	Text     string
	Priority uint8         // 0 to 9, or DefaultPriority
	TTL      time.Duration // zero when the route sets none
}

// Route is a compiled route.
type Route struct {
	Name     string
	Endpoint Endpoint
	Index    int // of Endpoint in Table.Endpoints
	Priority uint8
	TTL      time.Duration // zero when the route sets none

	prefix    string
	condition *expr.Condition // nil: always
}

// Source is where a message comes from. The zero Source is the telemetry of a leaf
// device.
type Source struct {
	Module     string // sending module; empty for a device
	Output     string // its output, may be empty
	TwinChange bool   // a change of reported properties; Module and Output do not count
}

// Path is the source as routes see it.
func (s Source) Path() string {
	switch {
	case s.TwinChange:
		return "/twinChangeNotifications"
	case s.Module == "":
		return "/messages"
	case s.Output == "":
		return "/messages/modules/" + s.Module
	default:
		return "/messages/modules/" + s.Module + "/outputs/" + s.Output
	}
}

// maxCached bounds the number of sources whose routes a table remembers: modules
// choose the names of their outputs.
const maxCached = 1024

// Table is a compiled set of routes. It is safe for use by many goroutines and never
// changes, but for what it remembers of sources it has seen.
type Table struct {
	routes    []*Route
	endpoints []Endpoint
	envs      sync.Pool

	mu   sync.Mutex // held to replace seen
	seen atomic.Pointer[map[Source]*plan]
}

// plan is what a table does with the messages of one source.
type plan struct {
	groups    [][]*Route // by endpoint; in each the highest priority first
	condition bool       // some route has one
}

// New compiles routes. The error of a route that does not compile names the route,
// the line and the column; then there is no table.
func New(defs []Def) (*Table, error) {
	t := &Table{}
	scope := new(expr.Scope)
	for _, d := range defs {
		s, err := parse(d.Text, scope)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", d.Name, err)
		}
		index := slices.Index(t.endpoints, s.endpoint)
		if index < 0 {
			index = len(t.endpoints)
			t.endpoints = append(t.endpoints, s.endpoint)
		}
		t.routes = append(t.routes, &Route{
			Name: d.Name, Endpoint: s.endpoint, Index: index, Priority: min(d.Priority, DefaultPriority), TTL: d.TTL,
			prefix: s.prefix, condition: s.condition,
		})
	}
	slices.SortStableFunc(t.routes, func(a, b *Route) int { return cmp.Compare(a.Priority, b.Priority) })
	t.envs.New = func() any { return scope.NewEnv() }
	t.seen.Store(&map[Source]*plan{})
	return t, nil
}

// Endpoints are the distinct endpoints of all routes. The caller must not change them.
func (t *Table) Endpoints() []Endpoint { return t.endpoints }

// Match adds to dst the routes that m takes: for each endpoint the one of the highest
// priority whose source and condition fit. It keeps nothing of src and m.
func (t *Table) Match(dst []*Route, src Source, m *message.Message) []*Route {
	p := (*t.seen.Load())[src]
	if p == nil {
		p = t.learn(src)
	}
	if !p.condition {
		for _, group := range p.groups {
			dst = append(dst, group[0])
		}
		return dst
	}
	env := t.envs.Get().(*expr.Env)
	env.Reset(m)
	for _, group := range p.groups {
		for _, r := range group {
			if r.condition == nil || r.condition.True(env) {
				dst = append(dst, r)
				break
			}
		}
	}
	env.Reset(nil)
	t.envs.Put(env)
	return dst
}

// learn makes and remembers the plan of a source.
func (t *Table) learn(src Source) *plan {
	p := t.plan(slashed(src.Path()))
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := *t.seen.Load()
	if len(seen) >= maxCached {
		seen = nil
	}
	seen = maps.Clone(seen)
	if seen == nil {
		seen = make(map[Source]*plan)
	}
	src.Module, src.Output = strings.Clone(src.Module), strings.Clone(src.Output)
	seen[src] = p
	t.seen.Store(&seen)
	return p
}

func (t *Table) plan(path string) *plan {
	p := &plan{}
	at := make(map[int]int) // endpoint to group
	for _, r := range t.routes {
		if !strings.HasPrefix(path, r.prefix) {
			continue
		}
		i, ok := at[r.Index]
		if !ok {
			i = len(p.groups)
			at[r.Index] = i
			p.groups = append(p.groups, nil)
		}
		p.groups[i] = append(p.groups[i], r)
		p.condition = p.condition || r.condition != nil
	}
	return p
}
