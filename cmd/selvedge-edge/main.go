// Command selvedge-edge is the device's small program: the edge half alone.
package main

import (
	"os"

	"github.com/selvedge-io/selvedge/cli/edgecmd"
)

func main() { os.Exit(edgecmd.Main(os.Args[1:], os.Stdout, os.Stderr)) }
