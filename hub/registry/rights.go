package registry

import (
	"strings"

	"github.com/selvedge-io/selvedge/auth"
)

// rightsByName are the rights under the names that Azure's management uses.
var rightsByName = [...]struct {
	name  string
	right auth.Right
}{
	{"RegistryRead", auth.RegistryRead},
	{"RegistryWrite", auth.RegistryWrite},
	{"ServiceConnect", auth.ServiceConnect},
	{"DeviceConnect", auth.DeviceConnect},
}

// rightNames writes rights as Azure's management does: "RegistryRead, ServiceConnect".
func rightNames(rights auth.Right) string {
	var names []string
	for _, r := range rightsByName {
		if rights&r.right != 0 {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, ", ")
}

// parseRights reads what rightNames wrote; names it does not know give nothing.
func parseRights(s string) (rights auth.Right) {
	for name := range strings.SplitSeq(s, ",") {
		for _, r := range rightsByName {
			if strings.TrimSpace(name) == r.name {
				rights |= r.right
			}
		}
	}
	return rights
}
