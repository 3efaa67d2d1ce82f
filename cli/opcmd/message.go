package opcmd

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/model/message"
)

func messageCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "message", Short: "Send cloud-to-device messages"}
	cmd.AddCommand(messageSend(env))
	return cmd
}

func messageSend(env *Env) *cobra.Command {
	var id, ack, contentType string
	var ttl time.Duration
	var properties []string
	cmd := &cobra.Command{
		Use: "send DEVICE TEXT", Short: "Queue a message for a device",
		Long:    "Queue a message for a device. TEXT is the body; @FILE or @- reads it from a file or standard input.",
		Example: "  selvedge message send pump-7 'open the valve' --property site=north --ack full",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := []byte(args[1])
			if name, isFile := strings.CutPrefix(args[1], "@"); isFile {
				var err error
				if body, err = env.file(name); err != nil {
					return err
				}
			}
			if id == "" {
				id = uuid.NewString()
			}
			header := http.Header{}
			set := func(k, v string) {
				if v != "" {
					header[k] = []string{v}
				}
			}
			set("iothub-to", "/devices/"+url.PathEscape(args[0])+"/messages/devicebound")
			set("iothub-messageid", id)
			set("iothub-ack", ack)
			set("iothub-contenttype", contentType)
			if ttl > 0 {
				set("iothub-expiry", time.Now().Add(ttl).UTC().Format(message.TimeFormat))
			}
			var pairs []string // encoded, since headers keep neither the case of names nor every character
			for _, p := range properties {
				name, value, ok := strings.Cut(p, "=")
				if !ok || name == "" {
					return show.Usagef("--property %q: write NAME=VALUE", p)
				}
				pairs = append(pairs, escape(name)+"="+escape(value))
			}
			set("iothub-properties", strings.Join(pairs, "&"))
			set("Content-Type", "application/octet-stream")
			_, err := env.ask(cmd, request{method: http.MethodPost, path: "/messages/devicebound", header: header, body: body})
			if err != nil {
				return err
			}
			return env.Print.Answer([]byte(fmt.Sprintf(`{"messageId":%q,"deviceId":%q}`, id, args[0])), nil)
		},
	}
	f := cmd.Flags()
	f.StringVar(&id, "message-id", "", "its id; a new UUID when not given")
	f.StringVar(&ack, "ack", "", "feedback wanted: none, positive, negative or full")
	f.StringVar(&contentType, "content-type", "", "media type of the body")
	f.DurationVar(&ttl, "ttl", 0, "drop it when not delivered in time; the hub's default is 1h")
	f.StringArrayVar(&properties, "property", nil, "application property NAME=VALUE; repeatable")
	return cmd
}

// escape is percent-encoding for one name or value of a list joined by & and =.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
