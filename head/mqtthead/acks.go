package mqtthead

import (
	"sync"

	"github.com/selvedge-io/selvedge/wire/mqtt"
)

// acks gives the PUBACKs of a connection their order: that of all QoS 1 publishes,
// as .NET demands (device-protocol 5.7). Publishes come in groups; a group is
// acknowledged when it is done and all before it are. It also bounds what is
// under way.
type acks struct {
	mu     sync.Mutex
	room   sync.Cond // less is under way, or stopped
	groups []group   // not acknowledged, oldest first
	ids    []uint16  // their packet ids, in order
	first  uint64    // number of groups[0]

	messages, bytes int
	stopped         bool
}

type group struct {
	ids             int // how many of acks.ids are its
	messages, bytes int
	done            bool
}

// add opens a group and gives its number. ids are copied.
func (a *acks) add(ids []uint16, messages, bytes int) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.groups = append(a.groups, group{ids: len(ids), messages: messages, bytes: bytes})
	a.ids = append(a.ids, ids...)
	a.messages += messages
	a.bytes += bytes
	return a.first + uint64(len(a.groups)) - 1
}

// done ends a group and sends what may be sent now.
func (a *acks) done(n uint64, w *mqtt.Writer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n < a.first || n-a.first >= uint64(len(a.groups)) {
		return
	}
	a.groups[n-a.first].done = true
	groups, ids := 0, 0
	for ; groups < len(a.groups) && a.groups[groups].done; groups++ {
		g := &a.groups[groups]
		ids += g.ids
		a.messages -= g.messages
		a.bytes -= g.bytes
	}
	if groups == 0 {
		return
	}
	if ids > 0 && !a.stopped {
		// An error here is that of the connection, which its reader will see.
		_ = w.Append(func(b []byte) []byte {
			for _, id := range a.ids[:ids] {
				b = (&mqtt.Ack{Type: mqtt.TypePuback, ID: id}).Append(b, mqtt.V311)
			}
			return b
		})
	}
	a.first += uint64(groups)
	a.groups = a.groups[:copy(a.groups, a.groups[groups:])]
	a.ids = a.ids[:copy(a.ids, a.ids[ids:])]
	if len(a.groups) == 0 && cap(a.ids) > 64 {
		a.groups, a.ids = nil, nil // an idle connection holds nothing
	}
	a.room.Broadcast()
}

// wait blocks while as much is under way as may be, and gives how many messages
// may be added; it is zero once stopped.
func (a *acks) wait(window, bytes int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.stopped && (a.messages >= window || a.bytes >= bytes) {
		a.room.Wait()
	}
	if a.stopped {
		return 0
	}
	return window - a.messages
}

// stop ends all waiting and sends no PUBACK any more.
func (a *acks) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.room.Broadcast()
}
