// Package kv keeps the small things an edge device must remember: sessions, cached
// twins, identities. All of it is in memory and in one file; a change is on disk
// before it is answered. It is meant for some megabytes.
package kv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/selvedge-io/selvedge/storage/log"
)

// Limits of a key and a value, in bytes.
const (
	MaxKey   = 4 << 10
	MaxValue = 16 << 20
)

// ErrClosed is what a store answers after Close.
var ErrClosed = errors.New("store is closed")

// Options of a store. The zero value is good.
type Options struct {
	Compact int64        // rewrite the file when garbage is over half of it and over this; 0 is 256 KiB
	FS      log.FS       // nil is the disk
	Log     *slog.Logger // nil is silence
}

// Store is an open store. Its methods may be called from many goroutines. One
// process at a time may have a directory open.
type Store struct {
	o    Options
	file file // the committer's

	mu      sync.Mutex
	work    sync.Cond
	values  map[string][]byte // what is on disk
	live    int64             // size of the records of values
	pending []change
	spare   []change
	closing bool
	joined  sync.WaitGroup
}

type change struct {
	key   string
	value []byte // nil deletes
	done  chan error
}

// Open opens the store in dir, which is made if need be.
func Open(dir string) (*Store, error) { return OpenWith(dir, Options{}) }

// OpenWith is Open with options.
func OpenWith(dir string, o Options) (*Store, error) {
	o.Compact = cmp.Or(o.Compact, 256<<10)
	if o.FS == nil {
		o.FS = log.Disk
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{o: o, file: file{fs: o.FS, dir: dir, log: o.Log}, values: map[string][]byte{}}
	s.work.L = &s.mu
	if err := s.file.open(s.apply); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s.joined.Go(s.commit)
	return s, nil
}

// apply enters a change that is on disk.
func (s *Store) apply(key string, value []byte) {
	if old, ok := s.values[key]; ok {
		s.live -= recordSize(key, old)
	}
	if value == nil {
		delete(s.values, key)
		return
	}
	s.values[key] = value
	s.live += recordSize(key, value)
}

// Get gives the value of a key, which must not be changed.
func (s *Store) Get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	return v, ok
}

// Keys lists the keys that begin with prefix, sorted.
func (s *Store) Keys(prefix string) []string {
	s.mu.Lock()
	var keys []string
	for k := range s.values {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	s.mu.Unlock()
	slices.Sort(keys)
	return keys
}

// Put sets the value of a key; it is on disk, and Get gives it, when Put returns
// nil. Concurrent calls share a sync. When ctx ends first the change may still
// happen.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	if value = slices.Clone(value); value == nil {
		value = []byte{}
	}
	return s.change(ctx, key, value)
}

// Delete forgets a key, as durably. An unknown key is fine.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.change(ctx, key, nil)
}

func (s *Store) change(ctx context.Context, key string, value []byte) error {
	if len(key) > MaxKey || len(value) > MaxValue {
		return fmt.Errorf("store %.40q: key of %d bytes or value of %d is over the limit", key, len(key), len(value))
	}
	done := make(chan error, 1)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.pending = append(s.pending, change{key, value, done})
	s.work.Signal()
	s.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// commit writes what is pending, all at once, for as long as the store is open.
func (s *Store) commit() {
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closing {
			s.work.Wait()
		}
		if len(s.pending) == 0 {
			s.mu.Unlock()
			return
		}
		batch := s.pending
		s.pending, s.spare = s.spare[:0], nil
		s.mu.Unlock()

		err := s.store(batch)
		s.mu.Lock()
		if err == nil {
			for _, c := range batch {
				s.apply(c.key, c.value)
			}
		}
		live := s.live
		s.mu.Unlock()
		for i, c := range batch {
			c.done <- err
			batch[i] = change{}
		}
		s.mu.Lock()
		s.spare = batch
		s.mu.Unlock()
		if garbage := s.file.size - headerSize - live; err == nil && garbage > s.o.Compact && garbage > live {
			if err := s.file.rewrite(s.all()); err != nil {
				s.o.Log.Warn("store not compacted", "dir", s.file.dir, "err", err)
			}
		}
	}
}

// store makes a batch durable.
func (s *Store) store(batch []change) error {
	if s.file.broken { // by an earlier error; write all of it anew
		if err := s.file.rewrite(s.all()); err != nil {
			return fmt.Errorf("write store: %w", err)
		}
	}
	var err error
	b := s.file.buf[:0]
	for _, c := range batch {
		b = appendRecord(b, c.key, c.value)
	}
	if err = s.file.append(b); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return nil
}

// all calls visit for every key and value. Only the committer changes them, so it
// needs no lock.
func (s *Store) all() func(visit func(key string, value []byte)) {
	return func(visit func(key string, value []byte)) {
		for k, v := range s.values {
			visit(k, v)
		}
	}
}

// Close makes durable what was put and gives back the file.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closing
	s.closing = true
	s.work.Signal()
	s.mu.Unlock()
	s.joined.Wait()
	if closed {
		return nil
	}
	return s.file.close()
}
