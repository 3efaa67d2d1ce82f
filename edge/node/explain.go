package node

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// explain says where in the file the mistakes are, and what was probably meant.
func explain(err error) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			key := strings.Join(e.Key(), ".")
			hint := "docs/edge-config.md lists all keys"
			if near := nearest(key, knownKeys(reflect.TypeFor[document](), "")); near != "" {
				hint = "did you mean " + near + "?"
			}
			errs = append(errs, fmt.Errorf("line %d: unknown key %s; %s", line, key, hint))
		}
		return errors.Join(errs...)
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := e.Position()
		what := strings.TrimPrefix(e.Error(), "toml: ")
		if key := strings.Join(e.Key(), "."); key != "" {
			return fmt.Errorf("line %d: %s: %s", line, key, plainly(what))
		}
		return fmt.Errorf("line %d, column %d: %s", line, column, plainly(what))
	}
	return err
}

// plainly leaves Go's types out of a message about the wrong type.
func plainly(what string) string {
	if kind, _, ok := strings.Cut(what, " into "); ok {
		if _, kind, ok = strings.Cut(kind, "cannot decode TOML "); ok {
			return "a value of another type is wanted here, not " + kind
		}
	}
	return what
}

// knownKeys lists the keys of the file, tables included, with dots between.
func knownKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := prefix + f.Tag.Get("toml")
		keys = append(keys, name)
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, knownKeys(f.Type, name+".")...)
		}
	}
	return keys
}

// nearest finds the known key that somebody who wrote key probably meant: spelled
// nearly so, or of the same name in another table. It is empty when none is near.
func nearest(key string, known []string) string {
	best, cost := "", 1+min(3, max(1, len(last(key))/2))
	for _, k := range known {
		c := distance(key, k)
		if c > 0 {
			c = min(c, 1+distance(last(key), last(k)))
		}
		if c < cost {
			best, cost = k, c
		}
	}
	return best
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is the number of characters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		above := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := above
			if a[i] != b[j] {
				cost = 1 + min(above, row[j], row[j+1])
			}
			above, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// isSet says whether the file has a key whose field has the type any.
func isSet(d *document, key string) bool {
	v := reflect.ValueOf(d).Elem()
	for name := range strings.SplitSeq(key, ".") {
		v = field(v, name)
	}
	return !v.IsNil()
}

func field(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("toml") == name {
			return v.Field(i)
		}
	}
	panic("no key " + name) // a test walks through all of foreignKeys
}

// size is a number of bytes: "64MiB", "2GB" or a plain number.
type size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	in := strings.TrimSpace(string(text))
	digits := strings.TrimRight(in, "KMGTiB ")
	unit, ok := map[string]int64{
		"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}[strings.TrimSpace(in[len(digits):])]
	n, err := strconv.ParseFloat(strings.ReplaceAll(digits, "_", ""), 64)
	if err != nil || !ok || !(n >= 0) || n*float64(unit) >= 1<<62 {
		return fmt.Errorf(`%q is no size; write it as "512MiB" or "2GiB"`, in)
	}
	*s = size(n * float64(unit))
	return nil
}

// length is a duration: "90m", "36h", or days, which Go does not know: "7d".
type length time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *length) UnmarshalText(text []byte) error {
	in := strings.TrimSpace(string(text))
	days, isDays := strings.CutSuffix(in, "d")
	if n, err := strconv.ParseUint(days, 10, 16); isDays && err == nil && n <= 36500 {
		*l = length(time.Duration(n) * day)
		return nil
	}
	d, err := time.ParseDuration(in)
	if err != nil || d < 0 {
		return fmt.Errorf(`%q is no duration; write it as "90m", "36h" or "7d"`, in)
	}
	*l = length(d)
	return nil
}
