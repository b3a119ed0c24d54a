// Package hostnet keeps the node's side of pod networking: the links of the ENIs, one route table per ENI, the rule
// that lets host-local networks win over those tables, the sysctls of the links, and the node DNS address.
//
// Build is pure: it compares what is wanted with what the kernel has and returns Ops, values that print as the iproute2
// command they stand for. Host is the Task that reads the kernel, builds and applies, and does so again when somebody
// changes links, routes or rules.
//
// ENIs are known by MAC address alone, because names change with the order of attachment. A route table belongs to a
// slot, which the address pool gives an ENI for its whole life. Every rule and route carries Protocol, so that what is
// ours is told from what is not; nothing else is deleted.
package hostnet
