package policy

import (
	"iter"
	"net/netip"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A World is all that a compiler reads, at one moment. It is immutable.
type World interface {
	// Pod returns the pod of that name, of whichever node, nil when there is none.
	Pod(cluster.Name) *cluster.PolicyPod
	Pods() iter.Seq[*cluster.PolicyPod]
	// Owner returns the pod that has the address for its own, nil for none.
	Owner(netip.Addr) *cluster.PolicyPod
	HasNamespace(string) bool
	// NamespaceLabels are nil for a namespace that has none or does not exist.
	NamespaceLabels(string) map[string]string
	Nodes() iter.Seq[*cluster.PolicyNode]
	// Policy returns the policy in normal form, nil when there is none.
	Policy(Ref) *Policy
	Policies() iter.Seq[*Policy]
	Tiers() []Tier
	// Local returns the pod of this node with the number, nil when there is none.
	Local(number uint16) *LocalPod
	Locals() iter.Seq[*LocalPod]
	// Listeners are the addresses on which the node answers DNS, and whom it stands for.
	Listeners() []Listener
	// Domain returns the addresses that the name has led to, in any order.
	Domain(name string) []netip.Addr
}

// A LocalPod is a pod of this node as ADD knows it, before and over what the API says. It is immutable.
type LocalPod struct {
	Number uint16
	Name   cluster.Name
	UID    string // empty if it is not known
	Addrs  []netip.Addr
}

// A Listener is an address of the node's that stands for the pods behind the cluster's DNS Service: who may talk to one of them,
// may talk to it. What is sent to Port of the listener is for a rule as if it went to the backend at its port.
type Listener struct {
	Addr     netip.Addr
	Backends []Backend
}

// A Backend is one port of a pod behind a Listener.
type Backend struct {
	Addr     netip.Addr
	Protocol cluster.Protocol
	Port     uint16 // of the listener
	Target   uint16 // of the backend
}

// Touched is what is different from the last World. The zero value is nothing.
type Touched struct {
	Full       bool // all may be
	Pods       []cluster.Name
	Namespaces []string
	Policies   []Ref
	Locals     []uint16 // numbers, also of pods that are gone
	Domains    []string
	Nodes      bool
	Tiers      bool
	Listeners  bool
}
