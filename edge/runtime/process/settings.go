package process

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/model/fault"
)

// settings is what a manifest says of a module of type process.
type settings struct {
	Command    string   `json:"command"`
	Args       []string `json:"args"`
	WorkingDir string   `json:"workingDir"`
	Builtin    string   `json:"builtin"`

	// Azure's tools insist on these; they mean nothing here.
	Image         json.RawMessage `json:"image"`
	CreateOptions json.RawMessage `json:"createOptions"`
}

// parseSettings reads and checks settings. Its errors are faults for the operator.
func parseSettings(raw []byte, builtins []string) (settings, error) {
	var s settings
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, fault.Wrap(err, fault.InvalidConfiguration,
			"settings of a process module have command, args, workingDir and builtin: %v", err)
	}
	switch {
	case (s.Command == "") == (s.Builtin == ""):
		return s, fault.New(fault.InvalidConfiguration, "settings of a process module need either command or builtin")
	case s.Builtin != "" && builtins != nil && !slices.Contains(builtins, s.Builtin):
		return s, fault.New(fault.InvalidConfiguration, "there is no builtin module %q; there are %s", s.Builtin, strings.Join(builtins, ", "))
	case strings.HasPrefix(s.Builtin, "-"):
		return s, fault.New(fault.InvalidConfiguration, "%q is no name of a builtin module", s.Builtin)
	case s.WorkingDir != "" && !filepath.IsAbs(s.WorkingDir):
		return s, fault.New(fault.InvalidConfiguration, "workingDir %q is not absolute; leave it out for a folder of the module's own", s.WorkingDir)
	}
	for _, a := range append([]string{s.Command, s.WorkingDir, s.Builtin}, s.Args...) {
		if strings.ContainsRune(a, 0) {
			return s, fault.New(fault.InvalidConfiguration, "settings hold a zero byte")
		}
	}
	return s, nil
}

// environment lays the module's own variables over ours, sorted.
func environment(own, base map[string]string) ([]string, error) {
	all := maps.Clone(base)
	maps.Copy(all, own)
	env := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(all[name], 0) {
			return nil, fault.New(fault.InvalidConfiguration, "environment variable %q cannot be set: names have no =, and nothing has a zero byte", name)
		}
		env = append(env, name+"="+all[name])
	}
	return env, nil
}

// lookUp finds the file of a command: a bare name in path, another one from dir on.
func lookUp(command, path, dir string) (string, error) {
	if strings.Contains(command, "/") {
		if !filepath.IsAbs(command) {
			command = filepath.Join(dir, command)
		}
		if err := executable(command); err != nil {
			return "", fault.Wrap(err, fault.InvalidConfiguration, "command %q cannot be run: %v", command, err)
		}
		return command, nil
	}
	for _, folder := range filepath.SplitList(path) {
		file := filepath.Join(cmp.Or(folder, "."), command)
		if filepath.IsAbs(file) && executable(file) == nil {
			return file, nil
		}
	}
	return "", fault.New(fault.InvalidConfiguration, "command %q is in no folder of PATH (%s)", command, path)
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("it is a folder")
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("it is not executable")
	}
	return nil
}

// longestFolder keeps folder names below the 255 bytes of common file systems.
const longestFolder = 200

// folderName makes a name for a module's folder that is safe in any file system.
// Different modules have different folders.
func folderName(module string) string {
	var b strings.Builder
	for i := range len(module) {
		c := module[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if len(name) > longestFolder {
		sum := sha256.Sum256([]byte(module))
		name = name[:longestFolder-33] + "~" + hex.EncodeToString(sum[:16])
	}
	return name
}
