// Command selvedge is the whole of Selvedge in one program: hub, edge and the
// operator's commands.
package main

import (
	"os"

	"github.com/selvedge-io/selvedge/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
