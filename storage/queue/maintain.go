package queue

import (
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

// enforce drops segments that are too old for everyone, or too much when the log
// ends at end. It says whether it dropped any; their files go with the next tidy.
func (q *Queue) enforce(now time.Time, end log.Offset) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	any := false
	low := q.lower()
	end = max(end, q.counted)
	for i := range max(0, len(q.segments)-1) {
		s := &q.segments[i]
		if s.end <= low {
			continue
		}
		dead := s.dead(now, q.o.MaxAge)
		over := q.o.Policy == DropOldest && q.o.MaxBytes > 0 && int64(end-low) >= q.o.MaxBytes
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
