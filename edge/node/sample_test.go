package node

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	sampleTable = regexp.MustCompile(`^#?\[([a-z_.]+)\]$`)
	sampleKey   = regexp.MustCompile(`^#?([A-Za-z_]+) = `)
)

// TestSample keeps the commented sample true: it is read, its commented lines are the
// defaults, and no key is missing.
func TestSample(t *testing.T) {
	raw, err := os.ReadFile("../../docs/edge-config.toml")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Parse(raw, "/")
	if err != nil {
		t.Fatal(err)
	}
	if plain.Hostname != "gw-1.example.net" || plain.Provisioning.Device != "gw-1" || plain.TrustBundle != "/etc/selvedge/root.pem" {
		t.Errorf("the sample gives %+v", plain)
	}

	known := knownKeys(reflect.TypeFor[document](), "")
	shown := map[string]bool{}
	table := ""
	var all strings.Builder
	for line := range strings.Lines(string(raw)) {
		if m := sampleTable.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			table = m[1] + "."
		}
		if m := sampleKey.FindStringSubmatch(line); m != nil {
			key := table + m[1]
			if shown[key] = true; !slices.Contains(known, key) && table != "agent.env." {
				t.Errorf("%s in the sample is no key", key)
			}
			if !strings.Contains(line, "file://") && table != "agent.env." && !strings.HasPrefix(table, "provisioning.") && m[1] != "data_dir" {
				line = strings.TrimPrefix(line, "#")
			}
		}
		all.WriteString(line)
	}
	spoken, err := Parse([]byte(all.String()), "/")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(spoken, plain) {
		t.Errorf("the commented lines are not the defaults:\n%+v\n%+v", spoken, plain)
	}
	for _, key := range ownKeys(reflect.TypeFor[document](), "") {
		if !shown[key] {
			t.Errorf("%s is not in the sample", key)
		}
	}
}

// TestManual wants every key that does something explained.
func TestManual(t *testing.T) {
	raw, err := os.ReadFile("../../docs/edge-config.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range ownKeys(reflect.TypeFor[document](), "") {
		if !strings.Contains(string(raw), "`"+last(key)+"`") {
			t.Errorf("%s is not in the manual", key)
		}
	}
	for _, f := range foreignKeys {
		if !strings.Contains(string(raw), last(f.key)) {
			t.Errorf("%s is not in the manual", f.key)
		}
	}
}

// ownKeys lists the keys that hold a value of ours.
func ownKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := prefix + f.Tag.Get("toml")
		switch {
		case key == "provisioning.authentication.device_id_pk" || key == "provisioning.authentication.identity_cert":
			keys = append(keys, key)
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, ownKeys(f.Type, key+".")...)
		case f.Type.Kind() != reflect.Interface && f.Type.Kind() != reflect.Map:
			keys = append(keys, key)
		}
	}
	return keys
}
