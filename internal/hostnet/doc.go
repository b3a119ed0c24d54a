// Package hostnet keeps the node's side of pod networking: the links of the ENIs, one route table per ENI and family, the
// rules that lead to these by the marks of pods' packets, the rule that lets host-local networks win over them, the
// companions of ENIs that are ipvlan parents, the datapath's programs on these links, the sysctls of the links, the node
// DNS address, and, where it is asked for, the node's address for what pods send outside the VPC.
//
// Build is pure: it compares what is wanted with what the kernel has and returns Ops, values that print as the command
// they stand for, of iproute2 or nft. Host is the Task that reads the kernel, builds and applies, and does so again when
// somebody changes what is of interest; it reports what others changed. No program is called. Spread is as pure, but what
// it asks for is done once for a link and not kept.
//
// ENIs are known by MAC address alone, because names change with the order of attachment. A route table belongs to a
// slot, which the address pool gives an ENI for its whole life. Every rule and route carries Protocol, and in nftables
// there is one table of ours, so that what is ours is told from what is not; nothing else is deleted, but for default
// routes by ENIs in the main table. Of links that are not ours, those with the node's default routes, this is changed:
// the group (LinkGroup while it has a default route, 0 after that), accept_ra from 1 to 2 when IPv6 forwarding is turned
// on, which would end it, and rp_filter from strict to loose for EgressNodeSNAT.
//
// DropIns, files that keep network managers off the ENIs, are beside this: they are written before anything else, and a
// failure is logged only.
package hostnet
