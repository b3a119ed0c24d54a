// Package bpf owns the eBPF datapath: its C sources, its maps and their layout, loading, pinning and attaching. It is
// a leaf: no other package of the project is imported, and no other package imports cilium/ebpf.
//
// Everything is pinned below Config.PinDir, in a directory named after the layout version. A restarted agent opens
// the same maps and replaces each program by one atomic link update, so there is no moment without a program and no
// state that an agent could lose: the maps are the store. See Services for the layout of Service ports and the order
// of writes that makes an update atomic.
package bpf
