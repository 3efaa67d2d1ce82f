package store

import "testing"

func TestCache(t *testing.T) {
	c := NewCache[string](10, func(v int) int { return v })
	get := func(key string) int { v, _ := c.Get(key); return v }
	c.Put(c.Epoch(), "a", 4, nil)
	c.Put(c.Epoch(), "b", 4, nil)
	get("a")
	c.Put(c.Epoch(), "c", 4, nil) // b is the least recently used
	if get("a") != 4 || get("b") != 0 || get("c") != 4 {
		t.Errorf("kept a=%d b=%d c=%d", get("a"), get("b"), get("c"))
	}
	c.Put(c.Epoch(), "d", 11, nil)
	if get("d") != 0 || get("a") != 4 {
		t.Error("an entry above the limit was kept or pushed others out")
	}
	c.Put(c.Epoch(), "a", 3, func(kept int) bool { return kept > 3 })
	if get("a") != 4 {
		t.Error("an older value replaced a newer one")
	}
	epoch := c.Epoch()
	c.Drop("a")
	c.Put(epoch, "a", 5, nil)
	if get("a") != 0 || get("c") != 4 {
		t.Error("a value read before the drop was kept, or too much was dropped")
	}
}
