package hostnet

import "net"

// A Companion is the node's own link beside those of pods on an ENI that is the parent of ipvlan links.
type Companion struct {
	Parent, Link           string // names: of the ENI, of the node's link
	ParentIndex, LinkIndex int
	MAC                    net.HardwareAddr // of both, and of the pods' links
}
