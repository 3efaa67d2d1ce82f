package agent

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits govern when modules that ended are started again.
type Limits struct {
	CoolOff     time.Duration // before the first restart; it doubles with each up to five minutes
	Care        time.Duration // after running for that long, restarts are forgotten
	MaxRestarts int           // after so many a module is given up; zero is never
}

// Defaults of Limits (edge-runtime 2.1), but for the number of restarts: the original
// gives a module up after 20, which nobody wants of a device far away.
var defaultLimits = Limits{CoolOff: 10 * time.Second, Care: 10 * time.Minute}

// maxCoolOff is the longest that a module waits for its restart (edge-runtime 2.6).
const maxCoolOff = 5 * time.Minute

// limitsOf reads limits from settings in the original's names, in lower case; wrong
// says which it could not read.
func limitsOf(env map[string]string) (l Limits, wrong []string) {
	l = defaultLimits
	for _, name := range slices.Sorted(maps.Keys(env)) {
		var unit time.Duration
		var into *time.Duration
		switch name {
		case "coolofftimeunitinseconds":
			unit, into = time.Second, &l.CoolOff
		case "intensivecaretimeinminutes":
			unit, into = time.Minute, &l.Care
		case "maxrestartcount":
		default:
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(env[name]), 10, 31)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("%s must be a whole number, not %q", name, env[name]))
		case into != nil:
			*into = time.Duration(max(n, 1)) * unit
		default:
			l.MaxRestarts = int(n)
		}
	}
	return l, wrong
}

// settings lays those of the deployment over those of the device. Names are in lower
// case, since the original takes any.
func settings(device, deployment map[string]string) map[string]string {
	all := make(map[string]string, len(device)+len(deployment))
	for _, env := range []map[string]string{device, deployment} {
		for name, value := range env {
			all[strings.ToLower(name)] = value
		}
	}
	return all
}

// isSet says whether a variable is there, in any case.
func isSet(env map[string]string, name string) bool {
	for key := range env {
		if strings.EqualFold(key, name) {
			return true
		}
	}
	return false
}
