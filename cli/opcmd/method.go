package opcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

func methodCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "method", Short: "Call direct methods of connected devices and modules"}
	cmd.AddCommand(methodInvoke(env))
	return cmd
}

func methodInvoke(env *Env) *cobra.Command {
	var module, payload string
	var connect, response time.Duration
	cmd := &cobra.Command{
		Use: "invoke DEVICE METHOD", Short: "Call a direct method and print the answer",
		Example: "  selvedge method invoke gateway-1 reset -m sensor\n" +
			"  selvedge method invoke pump-7 setSpeed --payload '{\"rpm\":900}'",
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{"methodName": args[1],
				"responseTimeoutInSeconds": int(response.Seconds()), "connectTimeoutInSeconds": int(connect.Seconds())}
			if payload != "" {
				text, err := env.input(payload)
				if err != nil {
					return fmt.Errorf("--payload: %w", err)
				}
				body["payload"] = json.RawMessage(text)
			}
			text, err := json.Marshal(body)
			if err != nil {
				return fmt.Errorf("call method: %w", err)
			}
			// The hub answers when the device does: wait for both of its time-outs.
			ctx, cancel := context.WithTimeout(cmd.Context(), max(env.Timeout, connect+response+15*time.Second))
			defer cancel()
			h, err := env.open(ctx)
			if err != nil {
				return err
			}
			raw, err := h.call(ctx, request{method: http.MethodPost, path: twinPath(args[0], module) + "/methods", body: text})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, nil)
		},
	}
	moduleFlag(cmd, &module)
	f := cmd.Flags()
	f.StringVar(&payload, "payload", "", "the argument: JSON, @FILE or @-; null when not given")
	f.DurationVar(&connect, "connect-timeout", 0, "wait this long for the device to connect, 0s to 300s")
	f.DurationVar(&response, "response-timeout", 30*time.Second, "wait this long for its answer, 5s to 300s")
	return cmd
}
