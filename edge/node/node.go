// Package node is a whole edge device as one value: it alone knows all parts of the
// edge half, starts them in order and stops them in reverse.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/selvedge-io/selvedge/edge/agent"
)

// Node is one edge device.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	ready   chan struct{}
	parts   atomic.Pointer[parts] // of Run
}

// New makes a node that does nothing until Run.
func New(cfg Config, log *slog.Logger) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for _, w := range cfg.Warnings {
		log.Warn("configuration: " + w)
	}
	return &Node{cfg: cfg, log: log, started: time.Now(), ready: make(chan struct{})}, nil
}

// Ready is closed when modules and devices can connect, with or without the hub.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Summary says for people what runs where.
func (n *Node) Summary() string {
	s := fmt.Sprintf("device=%s hub=%s", n.cfg.Provisioning.Device, n.cfg.Provisioning.Hub)
	if p := n.parts.Load(); p != nil {
		for _, l := range p.listeners {
			s += fmt.Sprintf(" %s=%s", l.name, l.addr)
		}
	}
	return s
}

// Run is the device until ctx ends or a part of it fails; it can be called once. It
// starts without the hub with what the disk remembers. At the end modules are stopped
// first, while they can still hand over what they have.
func (n *Node) Run(ctx context.Context) error {
	l := newLayers(ctx)
	p := &parts{cfg: &n.cfg, log: n.log, started: n.started}
	err := p.start(l)
	if err == nil && n.cfg.Ops != "" {
		err = p.operations(l, n.ready)
	}
	if err == nil && l.ctx.Err() == nil {
		n.parts.Store(p)
		close(n.ready)
		<-l.ctx.Done()
		n.log.Info("stopping")
	}
	return l.end(err)
}

// status is how the device is.
func (p *parts) status() Status {
	waiting, link := p.queue.Stats(), p.link.Counts()
	s := Status{
		Version: p.cfg.Version, Device: p.cfg.Provisioning.Device, Hub: p.cfg.Provisioning.Hub,
		Hostname: p.cfg.Hostname, Started: p.started.UTC(),
		Link:    Link{Up: p.link.Online(), Since: time.Unix(0, p.linkSince.Load()).UTC(), Sent: link.Sent},
		Queue:   Queue{Messages: waiting.Len, Bytes: waiting.Bytes},
		Modules: Modules{Connected: p.mqtt.Connections() + p.amqp.Connections()},
	}
	for _, m := range p.modules() {
		s.Modules.Deployed++
		if m.Status == "running" {
			s.Modules.Running++
		}
	}
	return s
}

// modules lists the modules of the deployment, the system's own excepted.
func (p *parts) modules() []agent.ModuleState {
	all := p.agent.Modules()
	return all[min(2, len(all)):] // the system's own are the first two
}
