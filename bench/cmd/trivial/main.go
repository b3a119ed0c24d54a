// Command trivial does nothing: the cost of executing it is the least that any plugin in Go costs.
package main

func main() {}
