// Package version says which build of Selvedge this is.
package version

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
)

// number is set by the linker: -X …/cli/version.number=1.2.3.
var number = "0.1.0-dev"

// Info describes a build.
type Info struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"`
	Go      string `json:"go"`
	System  string `json:"system"`
}

// Read gives the build's own description; the commit is what Go's linker recorded.
func Read() Info {
	info := Info{Version: number, Commit: "unknown", Date: "unknown",
		Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	dirty := false
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.time":
			info.Date = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		info.Commit += "-dirty"
	}
	return info
}

// Command makes "version".
func Command(print *show.Printer) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version and commit", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := Read()
			if print.Format == show.Table {
				return print.Text(fmt.Sprintf("selvedge %s (%s, %s, %s)", info.Version, info.Commit, info.Go, info.System))
			}
			raw, err := json.Marshal(info)
			if err != nil {
				return err
			}
			return print.Answer(raw, nil)
		},
	}
}
