// Package opcmd holds the operator's commands: one file a noun. They call a hub's
// service API over HTTPS, as any Azure service SDK would.
package opcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
)

// Env is what the commands need from the program around them.
type Env struct {
	Print   *show.Printer
	Timeout time.Duration                             // of one call to the hub
	Target  func(ctx context.Context) (Target, error) // which hub
	Stdin   io.Reader                                 // for "-" as a file
}

// Commands makes the operator's nouns.
func Commands(env *Env) []*cobra.Command {
	return []*cobra.Command{
		deviceCommand(env), moduleCommand(env), twinCommand(env), methodCommand(env),
		messageCommand(env), eventsCommand(env), deploymentCommand(env),
	}
}

// ask makes one call with the time-out of --timeout and gives the whole answer.
func (e *Env) ask(cmd *cobra.Command, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), e.Timeout)
	defer cancel()
	h, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	return h.call(ctx, r)
}

func (e *Env) open(ctx context.Context) (*hub, error) {
	t, err := e.Target(ctx)
	if err != nil {
		return nil, err
	}
	return dialHub(t)
}

func devicePath(id string) string { return "/devices/" + url.PathEscape(id) }

func modulePath(device, module string) string {
	return devicePath(device) + "/modules/" + url.PathEscape(module)
}

func twinPath(device, module string) string {
	if module == "" {
		return "/twins/" + url.PathEscape(device)
	}
	return "/twins/" + url.PathEscape(device) + "/modules/" + url.PathEscape(module)
}

// anyVersion asks for an unconditional change.
var anyVersion = http.Header{"If-Match": {"*"}}

// input reads a JSON argument: the text itself, @FILE, or @- for standard input.
func (e *Env) input(arg string) ([]byte, error) {
	text := []byte(arg)
	if name, isFile := strings.CutPrefix(arg, "@"); isFile {
		var err error
		if text, err = e.file(name); err != nil {
			return nil, err
		}
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("not valid JSON: %s; pass JSON text, @FILE or @- for standard input", clip(text))
	}
	return text, nil
}

func (e *Env) file(name string) ([]byte, error) {
	if name == "-" {
		text, err := io.ReadAll(e.Stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return text, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return text, nil
}

func clip(b []byte) string {
	if len(b) > 60 {
		return string(b[:60]) + "…"
	}
	return string(b)
}

// moment shortens a time of the API for tables; never-set times are empty.
func moment(s string) string {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() <= 1 {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// completeDevice offers device ids for the first argument.
func completeDevice(env *Env) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		h, err := env.open(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		raw, err := h.call(ctx, request{method: http.MethodGet, path: "/devices"})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var all []struct{ DeviceID string }
		_ = json.Unmarshal(raw, &all) // a completion that fails offers nothing
		var ids []string
		for _, d := range all {
			if strings.HasPrefix(d.DeviceID, prefix) {
				ids = append(ids, d.DeviceID)
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}
