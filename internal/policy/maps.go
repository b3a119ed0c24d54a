package policy

import (
	"net/netip"

	"github.com/nearpath/nearpath/bpf"
)

// A VerdictKey says whose verdict: of a policy set, about a class of peers. Ids are 64 bits that the compiler chose. 0 is, as a set,
// "not isolated" and, as a class, "no rule names the address".
type VerdictKey = bpf.PolicyKey

// PodSets are the policy sets of a pod, by Direction.
type PodSets = bpf.PolicySets

// Contents are what maps hold. Pods without sets may be left out.
type Contents = bpf.PolicyContents

// A Room is how many entries each map has room for. Intervals of lists of one are in the verdict itself and need no cells.
type Room = bpf.PolicyRoom

// Maps is what the kernel looks up. Every write is seen by programs at once, and one at a time is made. After an error of any
// of them nobody knows what the maps hold, and [Maps.Contents] must be asked.
//
// The verdict of a pod about an address at a point: set = pod's for the direction, allowed if 0; class = that of the address in
// peers, else that of the longest network with it, else 0; intervals = those of (set, class), else those of (set, 0), else
// none; allowed if one contains the point.
type Maps interface {
	// PutVerdict sets the intervals of a key: sorted, disjoint, perhaps none. Equal lists may be kept once. The list that was there
	// stays in the kernel, unused, until the next Grace.
	PutVerdict(VerdictKey, []Interval) error
	// DeleteVerdict and the other deletions are not disturbed by a key that is not there.
	DeleteVerdict(VerdictKey) error
	PutPeer(netip.Addr, uint64) error
	DeletePeer(netip.Addr) error
	// PutCIDR sets the class of a network, masked, never v4-mapped. A lookup is of 128 bits, IPv4 mapped into
	// IPv6: a network of IPv6 may contain all of IPv4, unless there is 0.0.0.0/0.
	PutCIDR(netip.Prefix, uint64) error
	DeleteCIDR(netip.Prefix) error
	// PutPod sets a pod's sets, one aligned store for each direction, ingress first.
	PutPod(number uint16, sets PodSets) error
	// Bump begins a new generation: every tracked connection is judged again at its next packet.
	Bump() error
	// Grace returns when no program uses any more what was deleted or replaced before. Its room is free then.
	Grace() error
	// Contents reads everything.
	Contents() (Contents, error)
	// Room says how much the maps hold at most.
	Room() Room
}
