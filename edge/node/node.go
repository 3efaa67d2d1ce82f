// Package node is a whole edge device as one value: it alone knows all parts of the
// edge half, starts them in order and stops them in reverse.
package node
