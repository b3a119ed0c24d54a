// Package preflight says whether the network that nearpath is configured for can work: whether its address ranges fit
// each other and the VPC, whether the node can have pod ENIs and enough addresses for them, and whether pods have a way
// out of the VPC.
//
// Gather asks the cloud and returns Facts. Plan and Egress judge Facts and do nothing else, so what they say can be
// tested and repeated. Watcher does both every few minutes and tells of changes; "nearpath check" does both once.
//
// What the credentials may not read is unknown, which is a finding of its own and never an alarm.
package preflight
