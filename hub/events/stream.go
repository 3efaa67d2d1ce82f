// Package events is the hub's built-in event stream: partitions that messages of
// devices are appended to durably, and readers that follow them from any point, as
// Event Hubs has them. A device's events keep their order in one partition.
package events

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/selvedge-io/selvedge/model/fault"
	"github.com/selvedge-io/selvedge/model/message"
	"github.com/selvedge-io/selvedge/storage/log"
)

// DefaultGroup is the consumer group that is always there.
const DefaultGroup = "$Default"

// EntityPath is what Event Hubs' clients call the stream of a hub.
const EntityPath = "selvedge"

// MaxPartitions bounds the number of partitions.
const MaxPartitions = 128

// Config of a stream. Dir is needed, the rest has defaults.
type Config struct {
	Dir string

	// Partitions is fixed when the stream is made; later it must be zero or the
	// same. Zero makes 4.
	Partitions int
	// Groups are consumer groups besides DefaultGroup.
	Groups []string

	MaxAge    time.Duration // older events go; zero keeps them
	MaxBytes  int64         // the oldest go above this, of all partitions; zero: no bound
	TailBytes int           // newest events kept in memory, of all partitions; zero is 16 MiB

	FS  log.FS           // nil is the disk
	Now func() time.Time // nil is time.Now
	Log *slog.Logger     // nil is silence
}

// Stream is an open event stream. Its methods may be called from many goroutines.
type Stream struct {
	created    time.Time
	groups     []string
	partitions []*partition
	closed     chan struct{}
	once       sync.Once
}

// identity is what a stream remembers of how it was made.
type identity struct {
	Partitions int       `json:"partitions"`
	Created    time.Time `json:"created"`
}

const (
	identityName = "stream.json"
	segmentBytes = 16 << 20
	minSegment   = 1 << 20
)

// Open opens the stream in cfg.Dir, or makes it.
func Open(cfg Config) (*Stream, error) {
	if cfg.FS == nil {
		cfg.FS = log.Disk
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	made, err := settle(cfg)
	if err != nil {
		return nil, fmt.Errorf("open event stream: %w", err)
	}
	s := &Stream{created: made.Created, groups: append([]string{DefaultGroup}, cfg.Groups...), closed: make(chan struct{})}
	options := log.Options{
		MaxAge:       cfg.MaxAge,
		MaxBytes:     cfg.MaxBytes / int64(made.Partitions),
		TailBytes:    max(cmp.Or(cfg.TailBytes, 16<<20)/made.Partitions, 256<<10),
		SegmentBytes: segmentBytes,
		FS:           cfg.FS,
		Log:          cfg.Log,
	}
	if options.MaxBytes > 0 { // so that the oldest eighth goes, not a half
		options.SegmentBytes = min(segmentBytes, max(options.MaxBytes/8, minSegment))
	}
	for i := range made.Partitions {
		p, err := openPartition(i, filepath.Join(cfg.Dir, fmt.Sprintf("%03d", i)), options, cfg.Now)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open partition %d of event stream: %w", i, err), s.Close())
		}
		s.partitions = append(s.partitions, p)
	}
	if err := cfg.FS.SyncDir(cfg.Dir); err != nil { // the folders must last as their files do
		return nil, errors.Join(fmt.Errorf("open event stream: %w", err), s.Close())
	}
	return s, nil
}

// settle reads how the stream was made, or makes it so.
func settle(cfg Config) (identity, error) {
	if cfg.Partitions < 0 || cfg.Partitions > MaxPartitions {
		return identity{}, fmt.Errorf("%d partitions asked for, there can be 1 to %d", cfg.Partitions, MaxPartitions)
	}
	if err := cfg.FS.MkdirAll(cfg.Dir); err != nil {
		return identity{}, err
	}
	name := filepath.Join(cfg.Dir, identityName)
	var made identity
	found, err := readNote(cfg.FS, name, &made)
	if err != nil {
		return identity{}, damaged(err, cfg.Dir)
	}
	if !found {
		made = identity{Partitions: cmp.Or(cfg.Partitions, 4), Created: cfg.Now().UTC()}
		if err := writeNote(cfg.FS, name, made); err != nil {
			return identity{}, err
		}
		return made, cfg.FS.SyncDir(filepath.Dir(cfg.Dir))
	}
	if made.Partitions < 1 || made.Partitions > MaxPartitions {
		return identity{}, damaged(fmt.Errorf("%s names %d partitions, there can be 1 to %d", name, made.Partitions, MaxPartitions), cfg.Dir)
	}
	if cfg.Partitions != 0 && cfg.Partitions != made.Partitions {
		return identity{}, fmt.Errorf("the stream in %s was made with %d partitions and keeps them; %d were asked for: set %d, or move the folder away to start with an empty stream",
			cfg.Dir, made.Partitions, cfg.Partitions, made.Partitions)
	}
	return made, nil
}

// damaged says what to do about a stream that does not know how it was made.
func damaged(err error, dir string) error {
	return fmt.Errorf("%w; bring the file back from a backup, or move %s away to start with an empty stream", err, dir)
}

// Append adds the messages of one device, or of its modules, and returns without
// waiting for the disk; it takes what it needs of them before it returns. done is
// called once, from any goroutine, and must not block or append: with nil when all
// of the batch is durable, or with a fault that lost all of it. For one device the
// calls of done come in the order of Append, those of empty batches too.
//
// Append blocks while too much waits for the disk.
func (s *Stream) Append(device string, batch []message.Message, done func(error)) {
	s.partitions[PartitionOf(device, len(s.partitions))].append(batch, done)
}

// Partitions is their number; they are named by their index.
func (s *Stream) Partitions() int { return len(s.partitions) }

// PartitionOf is the partition that a device's events are in.
func (s *Stream) PartitionOf(device string) int { return PartitionOf(device, len(s.partitions)) }

// Created is when the stream was made.
func (s *Stream) Created() time.Time { return s.created }

// Group gives the name of a consumer group as it was configured; case does not
// matter and empty means DefaultGroup. An unknown one is fault.GenericNotFound.
func (s *Stream) Group(name string) (string, error) {
	if name == "" {
		return DefaultGroup, nil
	}
	i := slices.IndexFunc(s.groups, func(g string) bool { return strings.EqualFold(g, name) })
	if i < 0 {
		return "", fault.New(fault.GenericNotFound, "there is no consumer group %q; there are %s", name, strings.Join(s.groups, ", "))
	}
	return s.groups[i], nil
}

// Info describes a partition.
type Info struct {
	Begin      int64     // sequence number of the oldest event still kept; Last+1 when empty
	Last       int64     // that of the newest; -1 when there was none yet
	LastOffset int64     // where the newest stands; -1 when there was none yet
	LastTime   time.Time // when the newest was enqueued; zero when there was none yet
	Empty      bool      // no event is kept
}

// Info describes a partition, or fails with fault.GenericNotFound.
func (s *Stream) Info(partition int) (Info, error) {
	p, err := s.partition(partition)
	if err != nil {
		return Info{}, err
	}
	return p.info(), nil
}

func (s *Stream) partition(i int) (*partition, error) {
	if i < 0 || i >= len(s.partitions) {
		return nil, fault.New(fault.GenericNotFound, "there is no partition %d; there are %d, from 0", i, len(s.partitions))
	}
	return s.partitions[i], nil
}

// Close makes durable what was appended and ends readers and followers.
func (s *Stream) Close() error {
	s.once.Do(func() { close(s.closed) })
	var errs []error
	for _, p := range s.partitions {
		errs = append(errs, p.log.Close())
	}
	return errors.Join(errs...)
}
