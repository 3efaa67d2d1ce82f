package queue

import (
	"slices"
	"time"

	"github.com/selvedge-io/selvedge/storage/log"
)

const (
	checkpointEvery = time.Second
	expireEvery     = time.Minute
)

// maintain writes checkpoints, frees the disk and applies the bounds.
func (q *Queue) maintain() {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	timer := time.NewTimer(0)
	<-timer.C
	dirty := q.dirty
	failed := false
	for {
		select {
		case <-dirty:
			dirty = nil // until the checkpoint is written
			timer.Reset(checkpointEvery)
			continue
		case <-timer.C:
			dirty = q.dirty
		case <-q.kick:
		case now := <-tick.C:
			if !q.enforce(now, 0) {
				continue
			}
		case <-q.quit:
			timer.Stop()
			return
		}
		err := q.tidy(time.Now())
		if err != nil && !failed {
			q.o.Log.Warn("place in the queue not kept, a restart may deliver messages again", "err", err)
		}
		failed = err != nil
	}
}

// tidy applies the bounds, writes a checkpoint and deletes what it leaves unused.
// Even if the checkpoint fails it is safe to delete, and a full disk needs it.
func (q *Queue) tidy(now time.Time) error {
	q.enforce(now, 0)
	floor, err := q.save()
	q.log.TrimTo(floor)
	known, newest := q.bases()
	q.log.Free(func(s log.Segment) bool { return s.Base < newest && !known[s.Base] })
	oldest := q.log.Oldest()
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.segments)-1 && q.segments[n].end <= oldest {
		n++
	}
	if n > 0 {
		q.segments = append(q.segments[:0], q.segments[n:]...)
	}
	return err
}

// bases are those of the segments that are known, and of the newest of them.
func (q *Queue) bases() (known map[log.Offset]bool, newest log.Offset) {
	q.mu.Lock()
	defer q.mu.Unlock()
	known = make(map[log.Offset]bool, len(q.segments))
	for _, s := range q.segments {
		known[s.base], newest = true, s.base
	}
	return known, newest
}

// free lets go of the segments that nobody needs although somebody waits for an older
// message: one endpoint that takes nothing must not fill the store with what others
// have long had. It says whether there were any; their files go with the next tidy. The
// caller holds q.mu.
func (q *Queue) free() bool {
	before := len(q.segments)
	if before == 0 {
		return false
	}
	newest := q.segments[before-1].base
	q.segments = slices.DeleteFunc(q.segments, func(s segment) bool { return s.base != newest && s.end != maxOffset && !q.needs(&s) })
	return len(q.segments) < before
}

// needs says whether a lane waits for anything in a sealed segment. The caller holds
// q.mu.
func (q *Queue) needs(s *segment) bool {
	for _, e := range q.endpoints {
		if e != nil && slices.ContainsFunc(e.lanes, func(l *lane) bool { return l.needs(s) }) {
			return true
		}
	}
	return false
}

// enforce drops segments that are too old for everyone, or too much when the log
// ends at end. It says whether it dropped any; their files go with the next tidy.
func (q *Queue) enforce(now time.Time, end log.Offset) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	any := q.free()
	low := q.lower()
	end = max(end, q.counted)
	for i := range max(0, len(q.segments)-1) {
		s := &q.segments[i]
		if s.end <= low {
			continue
		}
		dead := s.dead(now, q.o.MaxAge)
		over := q.o.Policy == DropOldest && q.o.MaxBytes > 0 && q.used(end) >= q.o.MaxBytes
		if !dead && !over {
			break
		}
		any = true
		q.drop(s, dead)
		low = q.lower()
	}
	return any
}

// drop forgets what is unsettled in s, the oldest segment anyone needs. The caller
// holds q.mu.
func (q *Queue) drop(s *segment, expired bool) {
	for _, e := range q.endpoints {
		if e == nil {
			continue
		}
		for _, l := range e.lanes {
			gone := l.drop(s)
			if expired {
				e.expired += gone
			} else {
				e.dropped += gone
			}
			if gone > 0 && !expired {
				q.o.Log.Warn("queue is full, oldest messages dropped", "endpoint", e.name, "priority", l.key.priority(), "messages", gone)
			}
		}
	}
}
