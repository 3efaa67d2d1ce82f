package registry

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/selvedge-io/selvedge/auth"
	"github.com/selvedge-io/selvedge/model/fault"
)

// builtins are the policies of every hub (service-protocol 2.3). The provisioning
// service's owner has no right on the hub itself.
var builtins = [...]struct {
	name   string
	rights auth.Right
}{
	{"iothubowner", auth.RegistryRead | auth.RegistryWrite | auth.ServiceConnect | auth.DeviceConnect},
	{"service", auth.ServiceConnect},
	{"device", auth.DeviceConnect},
	{"registryRead", auth.RegistryRead},
	{"registryReadWrite", auth.RegistryRead | auth.RegistryWrite},
	{"provisioningserviceowner", 0},
}

// policies is all shared access policies by name; fixed while the hub runs.
type policies map[string]auth.Policy

// Policy gives a shared access policy by its name, or fault.Unauthorized.
func (r *Registry) Policy(_ context.Context, name string) (auth.Policy, error) {
	p, ok := r.policies[name]
	if !ok {
		return auth.Policy{}, fault.New(fault.Unauthorized, "there is no shared access policy %q", name)
	}
	return p, nil
}

// Policies gives all shared access policies, by name.
func (r *Registry) Policies() []auth.Policy {
	return slices.SortedFunc(maps.Values(r.policies), func(a, b auth.Policy) int { return cmp.Compare(a.Name, b.Name) })
}

func (r *Registry) openPolicies(ctx context.Context) error {
	if err := r.loadPolicies(ctx); err != nil {
		return err
	}
	for _, b := range builtins {
		if _, ok := r.policies[b.name]; ok {
			continue
		}
		if err := r.db.Write(ctx, r.makeBuiltins); err != nil {
			return err
		}
		return r.loadPolicies(ctx)
	}
	return nil
}

func (r *Registry) makeBuiltins(tx *sql.Tx) error {
	for _, b := range builtins {
		keys, err := r.sealBoth([2]string{newKey(), newKey()})
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO policies (name, primary_key, secondary_key, rights, created) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (name) DO NOTHING`, b.name, keys[0], keys[1], rightNames(b.rights), micros(r.now()))
		if err != nil {
			return fmt.Errorf("make policy %s: %w", b.name, err)
		}
	}
	return nil
}

func (r *Registry) loadPolicies(ctx context.Context) error {
	all, err := ReadPolicies(ctx, r.db.Read(), r.sealer)
	if err == nil {
		r.policies = policies{}
		for _, p := range all {
			r.policies[p.Name] = p
		}
	}
	return err
}

// ReadPolicies gives the policies in a hub's database, by name, also while the hub
// has it open.
func ReadPolicies(ctx context.Context, db *sql.DB, sealer Sealer) ([]auth.Policy, error) {
	rows, err := db.QueryContext(ctx, "SELECT name, primary_key, secondary_key, rights FROM policies ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("read shared access policies: %w", err)
	}
	defer rows.Close()
	var all []auth.Policy
	for rows.Next() {
		var p auth.Policy
		var sealed [2]string
		var rights string
		if err := rows.Scan(&p.Name, &sealed[0], &sealed[1], &rights); err != nil {
			return nil, fmt.Errorf("read shared access policies: %w", err)
		}
		p.Rights = parseRights(rights)
		for n := range sealed {
			if p.Keys[n], err = unseal(sealer, sealed[n]); err != nil {
				return nil, fmt.Errorf("unseal the keys of policy %s: %w", p.Name, err)
			}
		}
		all = append(all, p)
	}
	return all, rows.Err()
}
