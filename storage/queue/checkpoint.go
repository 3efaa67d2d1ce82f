package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/selvedge-io/selvedge/storage/log"
)

// A checkpoint is where every lane stands, and how much it then had to read. It is
// written every now and then, so after a crash some messages are delivered again,
// but none is missed: the log is read on from where the checkpoint counted.

// checkpoint writes one; floor is the offset below which, after it, nothing is
// needed any more.
func (q *Queue) checkpoint() error {
	_, err := q.save()
	return err
}

func (q *Queue) save() (floor log.Offset, err error) {
	q.checkpointing.Lock()
	defer q.checkpointing.Unlock()
	q.mu.Lock()
	floor = q.lower()
	b := q.snapshot(q.slots.buf[:0])
	q.mu.Unlock()
	q.slots.buf = b
	if err := q.slots.write(b); err != nil {
		return floor, fmt.Errorf("write checkpoint: %w", err)
	}
	return floor, nil
}

// snapshot appends the state of all lanes. The caller holds q.mu.
func (q *Queue) snapshot(b []byte) []byte {
	b = binary.AppendVarint(b, int64(q.counted))
	for _, e := range q.endpoints {
		if e == nil {
			continue
		}
		for _, l := range e.lanes {
			b = l.append(b)
		}
	}
	return b
}

func (l *lane) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(l.key))
	for _, n := range [...]int64{int64(l.pos), l.unread.n, l.unread.bytes, l.passed.n, l.passed.bytes, int64(l.newest), l.heldNow.n} {
		b = binary.AppendVarint(b, n)
	}
	for _, h := range l.held[l.head:] {
		if h.state != settled {
			b = binary.AppendVarint(b, int64(h.at))
			b = binary.AppendVarint(b, h.bytes)
			b = binary.AppendVarint(b, h.enqueued.UnixMicro())
		}
	}
	return b
}

// resume reads a checkpoint. All that was with a receiver is to be offered again.
func (q *Queue) resume(b []byte) error {
	d := decoder{b: b}
	q.counted = d.offset()
	for len(d.b) > 0 && d.err == nil {
		k := key(d.uint())
		l := &lane{key: k}
		if id := k.endpoint(); id < uint64(len(q.endpoints)) && q.endpoints[id] != nil {
			l = q.endpoints[id].lane(k.priority())
		}
		l.pos = d.offset()
		l.unread, l.passed, l.newest = d.tally(), d.tally(), d.offset()
		for n := d.int(); n > 0 && d.err == nil; n-- {
			h := held{at: d.offset(), bytes: d.int(), enqueued: time.UnixMicro(d.int()), state: waiting}
			l.held = append(l.held, h)
			l.heldNow.add(int(h.bytes))
		}
	}
	return d.err
}

// restore brings the lanes to where the log is.
func (q *Queue) restore() error {
	b, err := q.slots.open(q.o.FS, q.dir)
	if err != nil {
		return err
	}
	if b != nil {
		if err := q.resume(b); err != nil {
			return err // its checksum was right, so this is none of the disk's doing
		}
	} else {
		q.counted = q.log.Oldest()
	}
	q.clamp()
	segments := q.log.Segments()
	for i := range segments[:max(0, len(segments)-1)] {
		if err := q.learn(segments[i]); err != nil {
			return err
		}
	}
	return q.catchUp(segments)
}

// clamp keeps positions within the log, in case it lost its end.
func (q *Queue) clamp() {
	end := q.log.End()
	q.counted = max(min(q.counted, end), q.log.Oldest())
	for _, e := range q.endpoints {
		if e == nil {
			continue
		}
		for _, l := range e.lanes {
			l.pos, l.newest = min(l.pos, end), min(l.newest, end)
		}
	}
}

// learn enters a sealed segment by the note beside it, or else by reading it.
func (q *Queue) learn(of log.Segment) error {
	s := segment{base: of.Base, end: of.End}
	if note, ok := q.log.ReadSidecar(of.Base); ok && s.parseNote(note) == nil {
		q.segments = append(q.segments, s)
		return nil
	}
	s = segment{base: of.Base, end: of.End}
	sums := map[key]tally{}
	err := q.read(of.Base, of.End, func(rec log.Record) {
		r, err := parseRecord(rec.Payload)
		if err != nil {
			return
		}
		r.each(func(k key, ttl time.Duration) {
			s.outlives(r, ttl)
			t := sums[k]
			t.add(len(r.payload))
			sums[k] = t
		})
	})
	if err != nil {
		return err
	}
	for k, t := range sums {
		s.lanes = append(s.lanes, share{k, t})
	}
	note := s.note()
	q.segments = append(q.segments, s)
	if err := q.log.WriteSidecar(of.Base, note); err != nil {
		q.o.Log.Debug("summary of a segment not kept", "segment", of.Base, "err", err)
	}
	return nil
}

// read calls visit for all records from from to to.
func (q *Queue) read(from, to log.Offset, visit func(log.Record)) error {
	r := q.log.NewReader(from)
	defer r.Close()
	for r.Resume(from); r.Offset() < to; {
		recs, err := r.Poll()
		if err != nil || len(recs) == 0 {
			return err
		}
		for _, rec := range recs {
			if rec.Offset >= to {
				return nil
			}
			visit(rec)
		}
	}
	return nil
}

// catchUp reads what the checkpoint did not count, and the rest of the segment
// before that for the lanes' shares of it.
// It runs before anyone else knows the queue.
func (q *Queue) catchUp(segments []log.Segment) error {
	for i, s := range segments {
		if s.End <= q.counted && i < len(segments)-1 {
			continue
		}
		if i == len(q.segments) {
			q.begin(s.Base)
		}
		q.restart()
		counted, known := q.counted, &q.segments[i]
		err := q.read(s.Base, s.End, func(rec log.Record) {
			q.count(known, rec, rec.Offset >= counted)
		})
		if err != nil {
			return err
		}
	}
	q.counted = q.log.End()
	q.floor.Store(int64(q.lower()))
	return nil
}

// slots are two files written in turn, so that one is whole at any time. They
// hold magic, CRC-32C of the rest, number of the checkpoint, length, checkpoint.
type slots struct {
	files  [2]log.File
	number uint64
	buf    []byte
	frame  []byte
}

const (
	slotMagic  = "SVQC"
	slotHeader = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// open gives the newest checkpoint, nil when there is none.
func (s *slots) open(fsys log.FS, dir string) ([]byte, error) {
	var newest []byte
	made := false
	for i := range s.files {
		name := filepath.Join(dir, fmt.Sprintf("checkpoint.%d", i))
		f, err := fsys.Edit(name)
		if errors.Is(err, fs.ErrNotExist) {
			made = true
			if f, err = fsys.Create(name); err == nil {
				_ = f.Allocate(0, 16<<10) // so that a full disk can still be written to
			}
		}
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.files[i] = f
		b, err := readFile(fsys, name)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		if number, state, ok := parseSlot(b); ok && number > s.number {
			newest, s.number = state, number
		}
	}
	if made {
		return newest, fsys.SyncDir(dir)
	}
	return newest, nil
}

func parseSlot(b []byte) (number uint64, state []byte, ok bool) {
	if len(b) < slotHeader || string(b[:4]) != slotMagic {
		return 0, nil, false
	}
	number = binary.LittleEndian.Uint64(b[8:])
	length := uint64(binary.LittleEndian.Uint32(b[16:]))
	if length > uint64(len(b)-slotHeader) {
		return 0, nil, false
	}
	b = b[:slotHeader+length]
	return number, b[slotHeader:], crc32.Checksum(b[8:], castagnoli) == binary.LittleEndian.Uint32(b[4:])
}

func (s *slots) write(state []byte) error {
	b := append(s.frame[:0], slotMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, s.number+1)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(state)))
	b = append(b, state...)
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	s.frame = b
	f := s.files[(s.number+1)%2]
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	s.number++
	return nil
}

func (s *slots) close() error {
	var errs []error
	for _, f := range s.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
