package server

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/hub/events"
	"github.com/selvedge-io/selvedge/hub/registry"
	"github.com/selvedge-io/selvedge/hub/store"
	"github.com/selvedge-io/selvedge/trust/keys"
	"github.com/selvedge-io/selvedge/trust/sas"
)

// read opens the database below data for fn; the hub may run meanwhile.
func read(ctx context.Context, data string, fn func(*sql.DB) error) (err error) {
	if isEmpty(data) {
		return noHub(data)
	}
	db, err := store.OpenReader(ctx, database(data))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return fn(db)
}

func noHub(data string) error {
	return fmt.Errorf("there is no hub in %s yet; start it once with: selvedge hub run --data %s", data, data)
}

// ConnectionString gives the connection string of a policy, for service clients or,
// with forEvents, for Event Hubs clients of the event stream. host is the name to
// put in it; empty means the hub's first. It works on the data of a hub whether it
// runs or not.
func ConnectionString(ctx context.Context, data, host, policy string, forEvents bool) (string, error) {
	var p auth.Policy
	err := read(ctx, data, func(db *sql.DB) error {
		if host == "" {
			var hosts []string
			if _, err := readSetting(ctx, db, settingHosts, &hosts); err != nil {
				return err
			}
			if len(hosts) == 0 {
				return noHub(data)
			}
			host = hosts[0]
		}
		k, err := keys.OpenExisting(filepath.Join(data, keysName))
		if err != nil {
			return err
		}
		all, err := registry.ReadPolicies(ctx, db, k)
		if err != nil {
			return err
		}
		p, err = pickPolicy(all, policy)
		return err
	})
	if err != nil {
		return "", err
	}
	cs := sas.ConnectionString{SharedAccessKeyName: p.Name, SharedAccessKey: p.Keys[0]}
	if forEvents {
		cs.Endpoint, cs.EntityPath = "sb://"+host+"/", events.EntityPath
	} else {
		cs.HostName = host
	}
	return cs.String(), nil
}

func pickPolicy(all []auth.Policy, name string) (auth.Policy, error) {
	names := make([]string, len(all))
	for i, p := range all {
		if p.Name == name {
			return p, nil
		}
		names[i] = p.Name
	}
	return auth.Policy{}, fmt.Errorf("there is no shared access policy %q; there are %s", name, strings.Join(names, ", "))
}

// IDScope gives the id scope of the hub's provisioning service. It works on the data
// of a hub whether it runs or not.
func IDScope(ctx context.Context, data string) (scope string, err error) {
	err = read(ctx, data, func(db *sql.DB) error {
		found, err := readSetting(ctx, db, settingScope, &scope)
		if err == nil && !found {
			err = noHub(data)
		}
		return err
	})
	return scope, err
}
