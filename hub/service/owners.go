package service

import (
	"fmt"
	"slices"
	"sync"

	"github.com/selvedge-io/selvedge/wire/amqp"
)

// maxReaders is how many receivers without an owner level a partition has in each
// group, as with Event Hubs.
const maxReaders = 5

// owners knows who reads which partition for which group, and lets nobody read beside
// one who reads with an owner level, its epoch (service-protocol 10.3).
type owners struct {
	mu sync.Mutex
	at map[slot]*crowd
}

// slot is a partition as a group sees it.
type slot struct {
	group     string
	partition int
}

// crowd is those who read one slot: one owner or some others.
type crowd struct {
	owner  *tail
	others []*tail
}

// join adds t, or says why not, after which it need not leave. Those it displaces have
// left; they are told.
func (o *owners) join(t *tail) *amqp.Error {
	o.mu.Lock()
	c := o.at[t.slot]
	if c == nil {
		c = &crowd{}
	}
	switch {
	case c.owner != nil && (!t.owner || t.epoch < c.owner.epoch):
		owner := c.owner
		o.mu.Unlock()
		return stolen("receiver %q reads partition %d for group %s with epoch %d; reconnect with a higher one, or end it first",
			owner.name, t.slot.partition, t.slot.group, owner.epoch)
	case !t.owner && len(c.others) >= maxReaders:
		o.mu.Unlock()
		return &amqp.Error{Condition: amqp.ErrResourceLimit, Description: fmt.Sprintf(
			"partition %d has %d receivers for group %s already; there can be no more without an owner level",
			t.slot.partition, maxReaders, t.slot.group)}
	}
	var displaced []*tail
	if t.owner {
		displaced = c.others
		if c.owner != nil {
			displaced = append(displaced, c.owner)
		}
		*c = crowd{owner: t}
	} else {
		c.others = append(c.others, t)
	}
	if o.at == nil {
		o.at = map[slot]*crowd{}
	}
	o.at[t.slot] = c
	o.mu.Unlock()
	for _, other := range displaced {
		other.displace(stolen("receiver %q came with epoch %d, so receiver %q is disconnected", t.name, t.epoch, other.name))
	}
	return nil
}

// leave takes t out; one that has left may leave again.
func (o *owners) leave(t *tail) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.at[t.slot]
	if c == nil {
		return
	}
	if c.owner == t {
		c.owner = nil
	}
	c.others = slices.DeleteFunc(c.others, func(other *tail) bool { return other == t })
	if c.owner == nil && len(c.others) == 0 {
		delete(o.at, t.slot)
	}
}

func stolen(format string, args ...any) *amqp.Error {
	return &amqp.Error{Condition: amqp.ErrStolen, Description: fmt.Sprintf(format, args...)}
}
