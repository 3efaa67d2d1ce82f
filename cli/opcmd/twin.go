package opcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
)

func twinCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "twin", Short: "Read and change twins: tags, desired and reported properties"}
	cmd.AddCommand(twinShow(env), twinWrite(env, "update", http.MethodPatch,
		"Merge tags and desired properties into a twin; null deletes a key"),
		twinWrite(env, "replace", http.MethodPut, "Replace a twin's tags and desired properties"), twinWatch(env))
	return cmd
}

func moduleFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVarP(into, "module", "m", "", "the module, instead of the device itself")
}

func twinShow(env *Env) *cobra.Command {
	var module string
	cmd := &cobra.Command{
		Use: "show DEVICE", Short: "Show a twin", Args: cobra.ExactArgs(1), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: twinPath(args[0], module)})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, nil)
		},
	}
	moduleFlag(cmd, &module)
	return cmd
}

func twinWrite(env *Env, verb, method, short string) *cobra.Command {
	var module, desired, tags string
	cmd := &cobra.Command{
		Use: verb + " DEVICE", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: completeDevice(env),
		Example: fmt.Sprintf("  selvedge twin %s pump-7 --desired '{\"interval\":5}'\n"+
			"  selvedge twin %s gateway-1 -m sensor --desired @sensor.json", verb, verb),
		RunE: func(cmd *cobra.Command, args []string) error {
			if desired == "" && tags == "" {
				return show.Usagef("nothing to write: pass --desired, --tags or both")
			}
			body := map[string]any{}
			if desired != "" {
				text, err := env.input(desired)
				if err != nil {
					return fmt.Errorf("--desired: %w", err)
				}
				body["properties"] = map[string]json.RawMessage{"desired": text}
			}
			if tags != "" {
				text, err := env.input(tags)
				if err != nil {
					return fmt.Errorf("--tags: %w", err)
				}
				body["tags"] = json.RawMessage(text)
			}
			text, err := json.Marshal(body)
			if err != nil {
				return fmt.Errorf("write twin: %w", err)
			}
			raw, err := env.ask(cmd, request{method: method, path: twinPath(args[0], module), body: text})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, nil)
		},
	}
	moduleFlag(cmd, &module)
	cmd.Flags().StringVar(&desired, "desired", "", "desired properties: JSON, @FILE or @-")
	cmd.Flags().StringVar(&tags, "tags", "", "tags: JSON, @FILE or @-")
	return cmd
}

func twinWatch(env *Env) *cobra.Command {
	var module string
	var every time.Duration
	cmd := &cobra.Command{
		Use: "watch DEVICE", Short: "Print a twin now and after every change, until Ctrl-C",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := env.open(cmd.Context())
			if err != nil {
				return err
			}
			return watch(cmd.Context(), every, func(ctx context.Context) ([]byte, error) {
				ctx, cancel := context.WithTimeout(ctx, env.Timeout)
				defer cancel()
				return h.call(ctx, request{method: http.MethodGet, path: twinPath(args[0], module)})
			}, func(raw []byte) error { return env.Print.Answer(raw, nil) })
		},
	}
	moduleFlag(cmd, &module)
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often to look")
	return cmd
}

// watch prints what get gives whenever its "version" has moved, until ctx ends.
// The service API has no push for twins, so it asks.
func watch(ctx context.Context, every time.Duration, get func(context.Context) ([]byte, error), print func([]byte) error) error {
	tick := time.NewTicker(max(every, 100*time.Millisecond))
	defer tick.Stop()
	var last json.RawMessage
	for {
		raw, err := get(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		var doc struct{ Version json.RawMessage }
		if err := json.Unmarshal(raw, &doc); err != nil {
			return fmt.Errorf("read twin: %w", err)
		}
		if !bytes.Equal(doc.Version, last) {
			last = doc.Version
			if err := print(raw); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
