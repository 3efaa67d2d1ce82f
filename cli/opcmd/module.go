package opcmd

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/selvedge-io/selvedge/cli/show"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// module is the part of the registry's module document that tables show.
type module struct {
	ModuleID        string `json:"moduleId"`
	ManagedBy       string `json:"managedBy"`
	ConnectionState string `json:"connectionState"`
	LastActivity    string `json:"lastActivityTime"`
	Authentication  struct {
		Type         string
		SymmetricKey struct{ PrimaryKey, SecondaryKey string }
	} `json:"authentication"`
}

func moduleCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "module", Short: "Register modules of a device and look at them"}
	cmd.AddCommand(moduleCreate(env), moduleList(env), moduleShow(env), moduleDelete(env), moduleConnectionString(env))
	return cmd
}

func moduleCreate(env *Env) *cobra.Command {
	var keys keyFlags
	cmd := &cobra.Command{
		Use: "create DEVICE MODULE", Short: "Register a module identity", Args: cobra.ExactArgs(2),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := json.Marshal(map[string]any{"deviceId": args[0], "moduleId": args[1], "authentication": keys.document()})
			if err != nil {
				return fmt.Errorf("create module: %w", err)
			}
			raw, err := env.ask(cmd, request{method: http.MethodPut, path: modulePath(args[0], args[1]), body: body})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, moduleRows(raw))
		},
	}
	keys.register(cmd.Flags())
	return cmd
}

func moduleList(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "list DEVICE", Short: "List a device's modules", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: devicePath(args[0]) + "/modules"})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, moduleRows(raw))
		},
	}
}

func moduleRows(raw []byte) func() (*show.Rows, error) {
	return func() (*show.Rows, error) {
		var all []module
		if err := json.Unmarshal(raw, &all); err != nil {
			var one module
			if err := json.Unmarshal(raw, &one); err != nil {
				return nil, fmt.Errorf("read the hub's answer: %w", err)
			}
			all = []module{one}
		}
		rows := &show.Rows{Header: []string{"MODULE", "CONNECTION", "AUTH", "MANAGED BY", "LAST ACTIVITY"}}
		for _, m := range all {
			rows.Add(m.ModuleID, m.ConnectionState, m.Authentication.Type, m.ManagedBy, moment(m.LastActivity))
		}
		return rows, nil
	}
}

func moduleShow(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "show DEVICE MODULE", Short: "Show a module's registration, keys included", Args: cobra.ExactArgs(2),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: modulePath(args[0], args[1])})
			if err != nil {
				return err
			}
			return env.Print.Answer(raw, nil)
		},
	}
}

func moduleDelete(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "delete DEVICE MODULE", Short: "Delete a module identity and its twin", Args: cobra.ExactArgs(2),
		ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := env.ask(cmd, request{method: http.MethodDelete, path: modulePath(args[0], args[1]), header: anyVersion})
			if err != nil {
				return err
			}
			env.Print.Note("deleted %s/%s", args[0], args[1])
			return nil
		},
	}
}

func moduleConnectionString(env *Env) *cobra.Command {
	return &cobra.Command{
		Use: "connection-string DEVICE MODULE", Short: "Print the connection string a module's program needs",
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeDevice(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := env.ask(cmd, request{method: http.MethodGet, path: modulePath(args[0], args[1])})
			if err != nil {
				return err
			}
			var m module
			if err := json.Unmarshal(raw, &m); err != nil {
				return fmt.Errorf("read module: %w", err)
			}
			if m.Authentication.SymmetricKey.PrimaryKey == "" {
				return fmt.Errorf("%s/%s has no key yet; an edge gateway gives its modules keys when it starts", args[0], args[1])
			}
			h, err := env.open(cmd.Context())
			if err != nil {
				return err
			}
			return env.Print.Text(sas.ConnectionString{HostName: h.host, DeviceID: args[0], ModuleID: args[1],
				SharedAccessKey: m.Authentication.SymmetricKey.PrimaryKey}.String())
		},
	}
}
