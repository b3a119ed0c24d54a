// Package cni serves the verbs of the Container Network Interface, specification 1.1.0, for the agent: it wires pods in one
// of three ways, called datapaths, and takes them apart again.
//
// A plan is pure: a Wiring gives an ordered list of Ops, which print as the iproute2 commands they stand for. ADD applies
// them, CHECK verifies each of them against the kernel, the Collector puts back those on the node, and DEL applies the plan
// that undoes them. The names and MAC addresses of links that we make follow from the attachment's key alone; what does
// not follow from it, ADD writes to a record first.
//
// Where addresses come from, where the datapath learns of pods, what they may ask for and how they are kept to their limits
// are interfaces of Config.
package cni
