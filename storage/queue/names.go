package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/selvedge-io/selvedge/storage/log"
)

// names gives endpoints their durable ids, which are never used twice. They are
// kept in a small file that is replaced as a whole. Callers take turns.
type names struct {
	fs   log.FS
	file string

	next uint64
	ids  map[string]uint64
}

type namesFile struct {
	Next      uint64            `json:"next"`
	Endpoints map[string]uint64 `json:"endpoints"`
}

func (q *Queue) loadNames() error {
	n := &q.names
	n.fs, n.file, n.ids = q.o.FS, filepath.Join(q.dir, "endpoints.json"), map[string]uint64{}
	b, err := readFile(n.fs, n.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var f namesFile
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", n.file, err)
	}
	n.next = f.Next
	for name, id := range f.Endpoints {
		n.ids[name] = id
		n.next = max(n.next, id+1)
		if id >= maxEndpoints {
			return fmt.Errorf("read %s: endpoint id %d is not possible", n.file, id)
		}
		q.enter(id, name)
	}
	return nil
}

// maxEndpoints bounds the ids that are ever given.
const maxEndpoints = 1 << 24

// add gives the id of a name, a new one if need be.
func (n *names) add(name string) (uint64, error) {
	if id, ok := n.ids[name]; ok {
		return id, nil
	}
	if n.next >= maxEndpoints {
		return 0, errors.New("too many endpoints were made")
	}
	id := n.next
	n.ids[name] = id
	n.next++
	if err := n.save(); err != nil {
		delete(n.ids, name)
		return 0, err
	}
	return id, nil
}

func (n *names) remove(name string) (id uint64, found bool, err error) {
	id, found = n.ids[name]
	if !found {
		return 0, false, nil
	}
	delete(n.ids, name)
	if err := n.save(); err != nil {
		n.ids[name] = id
		return 0, false, err
	}
	return id, true, nil
}

func (n *names) save() error {
	b, err := json.Marshal(namesFile{n.next, n.ids})
	if err != nil {
		return err
	}
	return replaceFile(n.fs, n.file, b)
}

// replaceFile writes a file durably, all or nothing.
func replaceFile(fsys log.FS, name string, b []byte) error {
	draft := name + ".new"
	_ = fsys.Remove(draft) // left from a crash, if at all
	f, err := fsys.Create(draft)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, fsys.Remove(draft))
	}
	if err := fsys.Rename(draft, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

const maxFile = 64 << 20

func readFile(fsys log.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, maxFile))
}
