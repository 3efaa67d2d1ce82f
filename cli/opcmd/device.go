package opcmd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// device is the part of the registry's device document that tables show.
type device struct {
	DeviceID        string   `json:"deviceId"`
	Status          string   `json:"status"`
	ConnectionState string   `json:"connectionState"`
	LastActivity    string   `json:"lastActivityTime"`
	Waiting         int      `json:"cloudToDeviceMessageCount"`
	Scope           string   `json:"deviceScope"`
	ParentScopes    []string `json:"parentScopes"`
	Authentication  struct {
		Type         string
		SymmetricKey struct{ PrimaryKey, SecondaryKey string }
	} `json:"authentication"`
	Capabilities struct {
		IotEdge bool `json:"iotEdge"`
	} `json:"capabilities"`
}

func deviceCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "device", Short: "Register devices and look at them"}
	cmd.AddCommand(deviceCreate(env), deviceList(env), deviceShow(env), deviceDelete(env),
		deviceConnectionString(env), deviceChildren(env))
	return cmd
}

func deviceCreate(env *Env) *cobra.Command {
	var edge, exists bool
	var authKind, parent, primary, secondary string
	var keys keyFlags
	cmd := &cobra.Command{
		Use:   "create DEVICE",
		Short: "Register a device",
		Example: "  selvedge device create pump-7\n" +
			"  selvedge device create gateway-1 --edge\n" +
			"  selvedge device create sensor-2 --auth x509-thumbprint --primary-thumbprint A1B2…",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{"deviceId": args[0], "capabilities": map[string]bool{"iotEdge": edge}}
			auth, err := authentication(authKind, primary, secondary, keys)
			if err != nil {
				return err
			}
			body["authentication"] = auth
			if parent != "" {
				scope, err := scopeOf(env, cmd, parent)
				if err != nil {
					return err
				}
				if edge {
					body["parentScopes"] = []string{scope}
				} else {
					body["deviceScope"] = scope
				}
			}
			text, err := json.Marshal(body)
			if err != nil {
				return fmt.Errorf("create device: %w", err)
			}
			raw, err := env.ask(cmd, request{method: http.MethodPut, path: devicePath(args[0]), body: text})
			if err != nil && exists {
				if old, getErr := env.ask(cmd, request{method: http.MethodGet, path: devicePath(args[0])}); getErr == nil {
					raw, err = old, nil
				}
			}
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, deviceRows(raw))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&edge, "edge", false, "the device is an edge gateway")
	f.BoolVar(&exists, "if-missing", false, "succeed when the device exists already, unchanged")
	f.StringVar(&authKind, "auth", "sas", "how it proves itself: sas, x509-thumbprint or x509-ca")
	f.StringVar(&parent, "parent", "", "the edge gateway it is a child of")
	keys.register(f)
	f.StringVar(&primary, "primary-thumbprint", "", "SHA-1 or SHA-256 of its certificate, in hex")
	f.StringVar(&secondary, "secondary-thumbprint", "", "a second certificate, for roll-over")
	_ = cmd.RegisterFlagCompletionFunc("auth", cobra.FixedCompletions(
		[]string{"sas", "x509-thumbprint", "x509-ca"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// keyFlags are keys brought along instead of made by the hub.
type keyFlags struct{ primary, secondary string }

func (k *keyFlags) register(f *pflag.FlagSet) {
	f.StringVar(&k.primary, "primary-key", "", "its key, base64 of 16 to 64 bytes; the hub makes one when not given")
	f.StringVar(&k.secondary, "secondary-key", "", "its second key, for roll-over")
}

// document is the authentication member of a registry document for keys.
func (k *keyFlags) document() map[string]any {
	doc := map[string]any{"type": "sas"}
	if k.primary != "" || k.secondary != "" {
		doc["symmetricKey"] = map[string]string{"primaryKey": k.primary, "secondaryKey": k.secondary}
	}
	return doc
}

func authentication(kind, primary, secondary string, keys keyFlags) (map[string]any, error) {
	if kind != "sas" && keys != (keyFlags{}) {
		return nil, show.Usagef("keys need --auth sas")
	}
	switch kind {
	case "sas":
		if primary != "" || secondary != "" {
			return nil, show.Usagef("thumbprints need --auth x509-thumbprint")
		}
		return keys.document(), nil
	case "x509-thumbprint":
		if primary == "" {
			return nil, show.Usagef("--auth x509-thumbprint needs --primary-thumbprint; " +
				"print one with: openssl x509 -in cert.pem -noout -fingerprint -sha256 | tr -d :")
		}
		if secondary == "" {
			secondary = primary
		}
		return map[string]any{"type": "selfSigned", "x509Thumbprint": map[string]string{
			"primaryThumbprint": primary, "secondaryThumbprint": secondary}}, nil
	case "x509-ca":
		return map[string]any{"type": "certificateAuthority"}, nil
	}
	return nil, show.Usagef("unknown --auth %q: use sas, x509-thumbprint or x509-ca", kind)
}

func scopeOf(env *Env, cmd *cobra.Command, parent string) (string, error) {
	d, err := getDevice(env, cmd, parent)
	if err != nil {
		return "", fmt.Errorf("look up parent: %w", err)
	}
	if !d.Capabilities.IotEdge {
		return "", fmt.Errorf("%s is no edge gateway, so it cannot be a parent", parent)
	}
	return d.Scope, nil
}

func getDevice(env *Env, cmd *cobra.Command, id string) (device, error) {
	raw, err := env.ask(cmd, request{method: http.MethodGet, path: devicePath(id)})
	if err != nil {
		return device{}, err
	}
	var d device
	if err := json.Unmarshal(raw, &d); err != nil {
		return device{}, fmt.Errorf("read device %s: %w", id, err)
	}
	return d, nil
}

func deviceList(env *Env) *cobra.Command {
	var top int
	cmd := &cobra.Command{
		Use: "list", Short: "List devices", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: "/devices",
				query: url.Values{"top": {strconv.Itoa(top)}}})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, deviceRows(raw))
		},
	}
	cmd.Flags().IntVar(&top, "top", 1000, "at most this many, 1 to 1000")
	return cmd
}

// deviceRows reads one device document or a list of them.
func deviceRows(raw []byte) func() (*show.Rows, error) {
	return func() (*show.Rows, error) {
		var all []device
		if err := json.Unmarshal(raw, &all); err != nil {
			var one device
			if err := json.Unmarshal(raw, &one); err != nil {
				return nil, fmt.Errorf("read the hub's answer: %w", err)
			}
			all = []device{one}
		}
		rows := &show.Rows{Header: []string{"DEVICE", "EDGE", "STATUS", "CONNECTION", "AUTH", "WAITING", "LAST ACTIVITY"}}
		for _, d := range all {
			edge := ""
			if d.Capabilities.IotEdge {
				edge = "yes"
			}
			rows.Add(d.DeviceID, edge, d.Status, d.ConnectionState, d.Authentication.Type,
				strconv.Itoa(d.Waiting), moment(d.LastActivity))
		}
		return rows, nil
	}
}

func deviceShow(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "show DEVICE", Short: "Show a device's registration, keys included", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: devicePath(args[0])})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, nil)
		},
	}
}

func deviceDelete(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "delete DEVICE", Short: "Delete a device, its modules and twins", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := env.ask(cmd, request{method: http.MethodDelete, path: devicePath(args[0]), header: anyVersion})
			if err != nil {
				return err
			}
			env.Print.Note("deleted %s", args[0])
			return nil
		},
	}
}

func deviceConnectionString(env *Env) *cobra.Command {
	var secondary bool
	var gateway string
	cmd := &cobra.Command{
		Use: "connection-string DEVICE", Short: "Print the connection string a device's program needs",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := getDevice(env, cmd, args[0])
			if err != nil {
				return err
			}
			h, err := env.open(cmd.Context())
			if err != nil {
				return err
			}
			cs := sas.ConnectionString{HostName: h.host, DeviceID: args[0], GatewayHostName: gateway}
			if d.Authentication.Type == "sas" {
				cs.SharedAccessKey = d.Authentication.SymmetricKey.PrimaryKey
				if secondary {
					cs.SharedAccessKey = d.Authentication.SymmetricKey.SecondaryKey
				}
			} else {
				cs.X509 = true
			}
			return env.Print.Text(cs.String())
		},
	}
	cmd.Flags().BoolVar(&secondary, "secondary", false, "with the secondary key")
	cmd.Flags().StringVar(&gateway, "gateway", "", "host name of the edge gateway it connects through")
	return cmd
}

func deviceChildren(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "children DEVICE", Short: "List the children of an edge gateway", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := scopeOf(env, cmd, args[0])
			if err != nil {
				return err
			}
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: "/devices"})
			if err != nil {
				return err
			}
			children, err := childrenOf(raw, scope)
			if err != nil {
				return err
			}
			return env.Print.Answer(children, deviceRows(children))
		},
	}
}

// childrenOf keeps the documents of a device list whose parent has that scope.
func childrenOf(raw []byte, scope string) ([]byte, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("read device list: %w", err)
	}
	kept := []json.RawMessage{}
	for _, one := range all {
		var d device
		if err := json.Unmarshal(one, &d); err != nil {
			return nil, fmt.Errorf("read device list: %w", err)
		}
		if len(d.ParentScopes) > 0 && d.ParentScopes[0] == scope || !d.Capabilities.IotEdge && d.Scope == scope {
			kept = append(kept, one)
		}
	}
	return json.Marshal(kept)
}
