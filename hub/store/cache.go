package store

import (
	"container/list"
	"sync"
)

// Cache keeps recently used rows in memory, up to a total weight. It stays true
// to the database by epochs: note the Epoch before reading or writing a row, give
// it to Put, and call Drop after each commit that makes kept rows wrong. A Put that
// was overtaken by a Drop does nothing.
type Cache[K comparable, V any] struct {
	limit  int
	weight func(V) int

	mu    sync.Mutex
	epoch uint64
	total int
	order *list.List // of *cached[K, V], last used first
	items map[K]*list.Element
}

type cached[K comparable, V any] struct {
	key    K
	value  V
	weight int
}

// NewCache makes a cache whose entries weigh at most limit together.
func NewCache[K comparable, V any](limit int, weight func(V) int) *Cache[K, V] {
	return &Cache[K, V]{limit: limit, weight: weight, order: list.New(), items: map[K]*list.Element{}}
}

// Epoch is the mark to hand to Put.
func (c *Cache[K, V]) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// Get gives what is kept for key.
func (c *Cache[K, V]) Get(key K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached[K, V]).value, true
}

// Put keeps v, unless something was dropped since epoch or newer, when not nil,
// says that what is kept already is newer.
func (c *Cache[K, V]) Put(epoch uint64, key K, v V, newer func(kept V) bool) {
	w := c.weight(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch != c.epoch {
		return
	}
	if e, ok := c.items[key]; ok {
		if newer != nil && newer(e.Value.(*cached[K, V]).value) {
			return
		}
		c.remove(e)
	}
	if w > c.limit {
		return
	}
	c.items[key] = c.order.PushFront(&cached[K, V]{key, v, w})
	for c.total += w; c.total > c.limit; {
		c.remove(c.order.Back())
	}
}

// Drop forgets keys and makes Puts of earlier epochs void.
func (c *Cache[K, V]) Drop(keys ...K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, key := range keys {
		if e, ok := c.items[key]; ok {
			c.remove(e)
		}
	}
}

func (c *Cache[K, V]) remove(e *list.Element) {
	kept := c.order.Remove(e).(*cached[K, V])
	c.total -= kept.weight
	delete(c.items, kept.key)
}
