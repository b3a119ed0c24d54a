// Package cni serves the verbs of the Container Network Interface, specification 1.1.0, for the agent: it wires pods
// with a veth pair and policy routing, and takes them apart again.
//
// A Plan is pure: an Attachment and its Lease give an ordered list of Ops, which print as the iproute2 commands they
// stand for. ADD applies them, CHECK verifies each of them against the kernel, DEL applies the plan that undoes them. The
// names and MAC addresses of links follow from the attachment alone, so DEL needs no record to find them.
//
// Where addresses come from and where the datapath learns of pods are interfaces, Addresses and Pods.
package cni
