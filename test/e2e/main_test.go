package e2e

import (
	"os"
	"testing"

	"github.com/selvedge-io/selvedge/test/rig"
)

// TestMain builds the programs once; rig starts and stops them.
func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
