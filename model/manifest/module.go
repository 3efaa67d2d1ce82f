package manifest

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/selvedge-io/selvedge/model/ident"
	"github.com/selvedge-io/selvedge/model/twin"
)

// Names of the system modules in a manifest. Their identities are ident.EdgeAgent and
// ident.EdgeHub.
const (
	AgentName = "edgeAgent"
	HubName   = "edgeHub"
)

func parseSystem(at place, o *twin.Object) (agent, hub *Module, err error) {
	system, err := at.object(o, "systemModules")
	if err != nil {
		return nil, nil, err
	}
	at = at.in("systemModules")
	for name, v := range system.All() {
		var into **Module
		switch name {
		case AgentName:
			into = &agent
		case HubName:
			into = &hub
		default:
			return nil, nil, at.in(name).refuse("the only system modules are %s and %s; put others under modules", AgentName, HubName)
		}
		m, err := parseModule(at.in(name), name, v)
		if err != nil {
			return nil, nil, err
		}
		*into = &m
	}
	// Fixed for the agent, and the hub has another default (edge-runtime 1.3).
	if agent != nil {
		agent.Status, agent.RestartPolicy, agent.StartupOrder = Running, Always, 0
	}
	if hub != nil && !has(system.Child(HubName), "restartPolicy") {
		hub.RestartPolicy = Always
	}
	return agent, hub, nil
}

func has(o *twin.Object, name string) bool {
	v, ok := o.Get(name)
	return ok && !v.IsNull()
}

func parseModules(at place, o *twin.Object) ([]Module, error) {
	section, err := at.object(o, "modules")
	if err != nil {
		return nil, err
	}
	at = at.in("modules")
	modules := make([]Module, 0, section.Len())
	for name, v := range section.All() {
		if err := checkName(at.in(name), name); err != nil {
			return nil, err
		}
		m, err := parseModule(at.in(name), name, v)
		if err != nil {
			return nil, err
		}
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b Module) int { return cmp.Compare(a.Name, b.Name) })
	return modules, nil
}

// checkName keeps to the names of the original's schema (edge-runtime 1.2), which are
// safe in paths too.
func checkName(at place, name string) error {
	legal := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	switch {
	case name == "":
		return at.refuse("a module has no name")
	case len(name) > ident.MaxLength:
		return at.refuse("the name has %d characters, the most is %d", len(name), ident.MaxLength)
	case strings.IndexFunc(name, func(r rune) bool { return !legal(r) }) >= 0:
		return at.refuse("the name must be made of letters, digits, - and _")
	case name == AgentName || name == HubName:
		return at.refuse("the name belongs to a system module; put it under systemModules")
	}
	return nil
}

func parseModule(at place, name string, v twin.Value) (Module, error) {
	m := Module{Name: name}
	o, ok := v.Object()
	if !ok {
		return m, at.refuse("it must be an object with type, status and settings")
	}
	var err error
	if m.Type, err = at.text(o, "type"); err != nil {
		return m, err
	}
	if m.Status, err = word(at, o, "status", Running, Running, Stopped); err != nil {
		return m, err
	}
	if m.RestartPolicy, err = word(at, o, "restartPolicy", OnUnhealthy, Never, OnFailure, OnUnhealthy, Always); err != nil {
		return m, err
	}
	if m.PullPolicy, err = word(at, o, "imagePullPolicy", PullOnCreate, PullOnCreate, PullNever); err != nil {
		return m, err
	}
	order, err := at.whole(o, "startupOrder", DefaultOrder, 0, DefaultOrder)
	if err != nil {
		return m, err
	}
	m.StartupOrder = uint32(order)
	if has(o, "version") {
		version, _ := o.Get("version")
		if m.Version, ok = plain(version); !ok {
			return m, at.in("version").refuse("it must be a string")
		}
	}
	if m.Env, err = parseEnv(at, o); err != nil {
		return m, err
	}
	settings, err := at.needObject(o, "settings")
	if err != nil {
		return m, err
	}
	m.Settings = settings.AppendJSON(nil)
	switch m.Type {
	case Docker:
		err = m.readContainer(at.in("settings"), settings)
	case Process:
		err = checkProcess(at.in("settings"), settings)
	}
	return m, err
}

func parseEnv(at place, o *twin.Object) (map[string]string, error) {
	section, err := at.object(o, "env")
	if err != nil {
		return nil, err
	}
	at = at.in("env")
	env := make(map[string]string, section.Len())
	for name, v := range section.All() {
		if env[name], err = parseVariable(at.in(name), name, v); err != nil {
			return nil, err
		}
	}
	return env, nil
}

func parseVariable(at place, name string, v twin.Value) (string, error) {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return "", at.refuse("%q cannot be the name of an environment variable", name)
	}
	o, ok := v.Object()
	if !ok {
		return "", at.refuse(`it must be an object such as {"value": "x"}`)
	}
	value, _ := o.Get("value")
	s, ok := plain(value)
	if !ok {
		return "", at.in("value").refuse("it must be a string, a number or a boolean")
	}
	if strings.ContainsRune(s, 0) {
		return "", at.in("value").refuse("it holds a zero byte")
	}
	return s, nil
}

// checkProcess checks the shape only; what can be run is for the driver to say.
func checkProcess(at place, settings *twin.Object) error {
	command, builtin := has(settings, "command"), has(settings, "builtin")
	if command == builtin {
		return at.refuse("it must hold either command, the program to run, or builtin, the name of a module that ships with Selvedge")
	}
	name := "command"
	if builtin {
		name = "builtin"
	}
	if _, err := at.text(settings, name); err != nil {
		return err
	}
	if has(settings, "workingDir") {
		if _, err := at.text(settings, "workingDir"); err != nil {
			return err
		}
	}
	if !has(settings, "args") {
		return nil
	}
	args, _ := settings.Get("args")
	items, ok := args.Items()
	for _, item := range items {
		_, isText := item.Text()
		ok = ok && isText
	}
	if !ok {
		return at.in("args").refuse(`it must be an array of strings such as ["--rate", "10"]`)
	}
	return nil
}

// readContainer reads image and createOptions (edge-runtime 1.4, 1.5).
func (m *Module) readContainer(at place, settings *twin.Object) (err error) {
	if m.Image, err = at.text(settings, "image"); err != nil {
		return err
	}
	m.CreateOptions, err = createOptions(at, settings)
	return err
}

// createOptions puts the pieces createOptions, createOptions01, … createOptions99
// together. A hole is an error here; the original would cut the text there.
func createOptions(at place, settings *twin.Object) (json.RawMessage, error) {
	const key = "createoptions"
	at = at.in("createOptions")
	pieces := make(map[int]string)
	last := 0
	for name, v := range settings.All() {
		suffix, ok := strings.CutPrefix(strings.ToLower(name), key)
		index, isPiece := pieceIndex(suffix)
		if !ok || !isPiece || v.IsNull() {
			continue
		}
		text, isText := v.Text()
		if !isText {
			return nil, at.refuse("it must be a string that holds JSON; deployment templates write an object, " +
				"so generate the manifest from the template first")
		}
		if _, twice := pieces[index]; twice {
			return nil, at.refuse("%s is there twice", name)
		}
		pieces[index] = text
		last = max(last, index)
	}
	var whole strings.Builder
	for i := range last + 1 {
		piece, ok := pieces[i]
		if !ok && last > 0 {
			return nil, at.refuse("there are pieces up to number %02d, but number %02d is missing", last, i)
		}
		whole.WriteString(piece)
	}
	text := strings.TrimSpace(whole.String())
	if text == "" || text == "null" {
		return json.RawMessage("{}"), nil
	}
	if _, err := twin.Parse([]byte(text)); err != nil {
		return nil, at.because(err, "the text is not a JSON object")
	}
	return json.RawMessage(text), nil
}

// pieceIndex reads "" as 0 and two digits as themselves.
func pieceIndex(suffix string) (int, bool) {
	if suffix == "" {
		return 0, true
	}
	if len(suffix) != 2 || suffix[0] < '0' || suffix[0] > '9' || suffix[1] < '0' || suffix[1] > '9' {
		return 0, false
	}
	return int(suffix[0]-'0')*10 + int(suffix[1]-'0'), suffix != "00"
}
