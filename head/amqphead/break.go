package amqphead

import (
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/head"
	"github.com/selvedge-io/selvedge/wire/amqp"
)

var _ head.Breaker = (*peer)(nil)

// Break implements head.Breaker.
func (p *peer) Break(kind string, reason error) bool {
	told := ErrorOf(reason)
	c := p.c
	switch strings.ToLower(kind) {
	case "killtcp":
		c.nc.Close() // the reader sees it
	case "shutdownamqp", "killamqpconnection":
		told.Condition = amqp.ErrConnectionForced
		c.amqp.Close(told)
	case "killamqpsession":
		for l := range p.current() {
			if in, ok := l.(interface{ Session() *amqp.Session }); ok {
				in.Session().End(told)
			}
		}
	case "killamqpcbslinkreq":
		detachAll(c.cbsIn(), told)
	case "killamqpcbslinkresp":
		detachAll(c.cbsOut(), told)
	case "killamqpd2clink":
		control := p.control()
		for l := range p.current() {
			if _, ok := l.(*amqp.Receiver); ok && !slices.Contains(control, l) {
				l.Detach(told)
			}
		}
	case "killamqpc2dlink":
		p.mu.Lock()
		l := p.toDevice.last
		p.mu.Unlock()
		if l != nil {
			l.Detach(told)
		}
	case "killamqptwinlinkreq":
		detachAll(p.control()[0:1], told)
	case "killamqptwinlinkresp":
		detachAll(p.control()[1:2], told)
	case "killamqpmethodreqlink": // requests go to the device
		detachAll(p.control()[3:4], told)
	case "killamqpmethodresplink":
		detachAll(p.control()[2:3], told)
	default:
		return false
	}
	return true
}

// current gives the links of the identity.
func (p *peer) current() map[link]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[link]struct{}, len(p.links))
	for l, attached := range p.links {
		if attached {
			all[l] = struct{}{}
		}
	}
	return all
}

// control gives the links for twin and methods, each in and out; nil where there is none.
func (p *peer) control() []link {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]link, 4)
	if p.twin.hasIn {
		all[0] = p.twin.in
	}
	if p.twin.hasOut {
		all[1] = p.twin.out
	}
	if p.methods.hasIn {
		all[2] = p.methods.in
	}
	if p.methods.hasOut {
		all[3] = p.methods.out
	}
	return all
}

func detachAll(all []link, told *amqp.Error) {
	for _, l := range all {
		if l != nil {
			l.Detach(told)
		}
	}
}

func (c *Conn) cbsIn() (all []link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.cbs.requests {
		all = append(all, r)
	}
	return all
}

func (c *Conn) cbsOut() (all []link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.cbs.answers {
		all = append(all, a.link)
	}
	return all
}
