package twin

import (
	"strconv"
	"time"
)

// Names of the members that a section adds to its values.
const (
	KeyVersion            = "$version"
	KeyMetadata           = "$metadata"
	keyLastUpdated        = "$lastUpdated"
	keyLastUpdatedVersion = "$lastUpdatedVersion"
)

// timeForm is Azure's time with seven digits of a second (device-protocol 5.8.4).
const timeForm = "2006-01-02T15:04:05.0000000Z"

// never is how Azure writes a time that has not come.
const never = "0001-01-01T00:00:00Z"

// Section is the desired or the reported half of a twin. It is a value: changing
// gives a new one.
type Section struct {
	Values   *Object
	Metadata *Object // mirrors Values; each node has $lastUpdated
	Version  int64   // starts at 1, one more with each write

	// Desired sections note in each node of the metadata the version that last
	// touched it ($lastUpdatedVersion).
	Desired bool
}

// NewReported is the reported half of a new twin.
func NewReported() Section { return Section{Values: &Object{}, Metadata: blank(), Version: 1} }

// NewDesired is the desired half of a new twin.
func NewDesired() Section {
	return Section{Values: &Object{}, Metadata: blank(), Version: 1, Desired: true}
}

func blank() *Object { return &Object{members: []member{{keyLastUpdated, String(never)}}} }

// Patch merges p and counts the version up by one, even when nothing changes.
func (s Section) Patch(p *Object, now time.Time) Section {
	next := s
	next.Version++
	next.Values = Merge(s.Values, p)
	next.Metadata = s.stamp(now, next.Version).over(s.Metadata, p)
	return next
}

// Replace makes o, without its nulls, the whole of the section. The metadata
// starts anew.
func (s Section) Replace(o *Object, now time.Time) Section {
	next := s
	next.Version++
	next.Values = Merge(nil, o)
	next.Metadata = s.stamp(now, next.Version).over(nil, next.Values)
	return next
}

// stamp is the members that mark a node of the metadata as touched.
type stamp []member

func (s Section) stamp(now time.Time, version int64) stamp {
	st := stamp{{keyLastUpdated, String(now.UTC().Format(timeForm))}}
	if s.Desired {
		st = append(st, member{keyLastUpdatedVersion, Int(version)})
	}
	return st
}

// over lays the marks of a patch over the metadata of what it patches.
func (st stamp) over(meta, patch *Object) *Object {
	e := edit(meta, len(st)+patch.Len())
	for _, m := range st {
		e.set(m.key, m.value)
	}
	leaf := Of(&Object{members: st}) // one for all leaves: objects are immutable
	for key, v := range patch.All() {
		switch v.kind {
		case null:
			e.drop(key)
		case object:
			var below *Object
			if i := e.find(key); i >= 0 {
				below = e.members[i].value.child
			}
			e.set(key, Of(st.over(below, v.child)))
		default:
			e.set(key, leaf)
		}
	}
	return e.object()
}

// DeviceJSON is the section as devices see it: the values and "$version".
func (s Section) DeviceJSON() []byte { return WithVersion(s.Values, s.Version) }

// ServiceJSON is the section as services see it: with "$metadata" too.
func (s Section) ServiceJSON() []byte { return document(s.Values, s.Metadata, s.Version) }

// ChangeJSON is what a twin change event tells about the patch that led to s,
// written at now: the patch itself, the metadata of what it touched, "$version".
func (s Section) ChangeJSON(patch *Object, now time.Time) []byte {
	return document(patch, s.stamp(now, s.Version).over(nil, patch), s.Version)
}

func document(values, metadata *Object, version int64) []byte {
	b := append(make([]byte, 0, 512), '{')
	if b = values.appendMembers(b); len(b) > 1 {
		b = append(b, ',')
	}
	b = append(b, `"$metadata":`...)
	b = metadata.AppendJSON(b)
	b = append(b, `,"$version":`...)
	b = strconv.AppendInt(b, version, 10)
	return append(b, '}')
}

// WithVersion is o as JSON with "$version" as its last member, as devices are
// told a section or a change of it.
func WithVersion(o *Object, version int64) []byte {
	b := append(make([]byte, 0, 256), '{')
	if b = o.appendMembers(b); len(b) > 1 {
		b = append(b, ',')
	}
	b = append(b, `"$version":`...)
	b = strconv.AppendInt(b, version, 10)
	return append(b, '}')
}

// ParseSection reads a section as ServiceJSON or DeviceJSON wrote it. A missing
// "$version" counts as 1.
func ParseSection(b []byte, desired bool) (Section, error) {
	o, err := Parse(b)
	if err != nil {
		return Section{}, err
	}
	s := Section{Metadata: blank(), Version: 1, Desired: desired}
	if v, ok := o.Get(KeyVersion); ok && v.kind == scalar {
		if n, err := strconv.ParseInt(v.raw, 10, 64); err == nil {
			s.Version = n
		}
	}
	if v, ok := o.Get(KeyMetadata); ok && v.kind == object {
		s.Metadata = v.child
	}
	e := edit(o, 0)
	e.drop(KeyVersion)
	e.drop(KeyMetadata)
	s.Values = e.object()
	return s, nil
}
