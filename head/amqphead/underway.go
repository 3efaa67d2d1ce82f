package amqphead

import "sync"

// perMessage is what a message under way counts beyond its bytes, so that empty ones
// are bounded, too.
const perMessage = 64

// underway counts the bytes of a connection's messages that the backend has not
// answered for.
type underway struct {
	mu      sync.Mutex
	room    sync.Cond // there is less of them, or stopped
	bytes   int
	stopped bool
}

func (u *underway) add(bytes int) {
	u.mu.Lock()
	u.bytes += bytes
	u.mu.Unlock()
}

func (u *underway) done(bytes int) {
	u.mu.Lock()
	u.bytes -= bytes
	u.room.Broadcast()
	u.mu.Unlock()
}

// wait blocks while there are more than most.
func (u *underway) wait(most int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.bytes > most && !u.stopped {
		u.room.Wait()
	}
}

// stop ends all waiting.
func (u *underway) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
	u.room.Broadcast()
}
