// Command selvedge is the whole of Selvedge in one program: hub, edge and the
// operator's commands.
package main

func main() {}
