package broker

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/selvedge-io/selvedge/lang/route"
	"github.com/selvedge-io/selvedge/model/fault"
)

// defaultTTL is how long messages are kept when the deployment does not say.
const defaultTTL = 7200 * time.Second

// lowestPriority is what tools write for a route that has no priority (edge-runtime 1.7).
const lowestPriority = 2000000000

// settings is what the desired properties of $edgeHub ask for (edge-runtime 1.7).
type settings struct {
	routes []route.Def
	ttl    time.Duration // of routes that set none; zero: for ever
}

// parseSettings reads the desired properties of $edgeHub. The errors are faults whose
// text goes into the reported properties.
func parseSettings(desired []byte) (settings, error) {
	var doc struct {
		SchemaVersion string                     `json:"schemaVersion"`
		Routes        map[string]json.RawMessage `json:"routes"`
		Store         *struct {
			TTL *int32 `json:"timeToLiveSecs"`
		} `json:"storeAndForwardConfiguration"`
		// Kept by older tools; accepted so that their manifests do not fail.
		MQTTBroker map[string]json.RawMessage `json:"mqttBroker"`
		Integrity  map[string]json.RawMessage `json:"integrity"`
	}
	if err := json.Unmarshal(desired, &doc); err != nil {
		return settings{}, fault.Wrap(err, fault.InvalidConfiguration, "desired properties of $edgeHub: %v", err)
	}
	minor, ok := schemaMinor(doc.SchemaVersion)
	if !ok {
		return settings{}, refused("invalid schema version %q; known are 1.0 to 1.3", doc.SchemaVersion)
	}
	if minor >= 1 && doc.Store == nil {
		return settings{}, refused("storeAndForwardConfiguration is missing")
	}
	s := settings{ttl: defaultTTL}
	if doc.Store != nil && doc.Store.TTL != nil {
		s.ttl = seconds(int64(*doc.Store.TTL))
	}
	for name, raw := range doc.Routes {
		d, err := parseRoute(name, raw, minor)
		if err != nil {
			return settings{}, err
		}
		if strings.TrimSpace(d.Text) != "" {
			s.routes = append(s.routes, d)
		}
	}
	slices.SortFunc(s.routes, func(a, b route.Def) int { return cmp.Compare(a.Name, b.Name) })
	return s, nil
}

func refused(format string, args ...any) error {
	return fault.New(fault.InvalidConfiguration, format, args...)
}

// seconds is a time to live: negative means for ever, which is zero here; zero means
// at once, which is as short as can be.
func seconds(n int64) time.Duration {
	switch {
	case n < 0:
		return 0
	case n == 0:
		return 1
	default:
		return time.Duration(n) * time.Second
	}
}

// schemaMinor is the y of schema version 1.y or 1.y.z.
func schemaMinor(version string) (int, bool) {
	rest, ok := strings.CutPrefix(version, "1.")
	minor, _, _ := strings.Cut(rest, ".")
	if !ok || len(minor) != 1 || minor < "0" || minor > "3" {
		return 0, false
	}
	return int(minor[0] - '0'), true
}

func parseRoute(name string, raw json.RawMessage, minor int) (route.Def, error) {
	d := route.Def{Name: name, Priority: route.DefaultPriority}
	if string(raw) == "null" {
		return d, nil
	}
	if len(raw) > 0 && raw[0] == '"' {
		return d, json.Unmarshal(raw, &d.Text)
	}
	var o struct {
		Route    *string      `json:"route"`
		Priority *json.Number `json:"priority"`
		TTL      *json.Number `json:"timeToLiveSecs"`
	}
	if minor == 0 || json.Unmarshal(raw, &o) != nil {
		return d, refused("route %q: a route is a string, or from schema version 1.1 on an object with route, priority and timeToLiveSecs", name)
	}
	if o.Route == nil {
		return d, refused("route %q: the object has no route", name)
	}
	d.Text = *o.Route
	if o.Priority != nil {
		p, err := o.Priority.Int64()
		switch {
		case err == nil && p == lowestPriority:
		case err == nil && p >= 0 && p <= 9:
			d.Priority = uint8(p)
		default:
			return d, refused("route %q: priority %s is not a whole number from 0 to 9", name, *o.Priority)
		}
	}
	if o.TTL != nil {
		ttl, err := o.TTL.Int64()
		if err != nil || ttl < 0 || ttl > math.MaxUint32 {
			return d, refused("route %q: timeToLiveSecs %s is not a whole number from 0 to %d", name, *o.TTL, uint32(math.MaxUint32))
		}
		d.TTL = time.Duration(ttl) * time.Second // zero: as configured for all
	}
	return d, nil
}
