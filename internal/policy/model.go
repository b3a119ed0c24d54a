package policy

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A Direction is one of a pod's two.
type Direction uint8

// The directions, as the pod sees them.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// A Ref names an object of an API. It is comparable.
type Ref struct {
	// Kind is NetworkPolicy, ClusterNetworkPolicy, or, of Calico, crd.NetworkPolicy or crd.GlobalNetworkPolicy.
	Kind string
	Name cluster.Name // without a namespace for objects of the cluster
}

func (r Ref) String() string {
	if r.Name.Namespace == "" {
		return r.Kind + " " + r.Name.Name
	}
	return r.Kind + " " + r.Name.String()
}

// An Action is what a rule does with what it matches.
type Action uint8

// The actions. The zero value denies, so that what nobody set opens nothing.
const (
	Deny Action = iota
	Allow
	Pass // leaves the tier: the next one decides
	Log  // marks the packet and goes on with the next rule
)

func (a Action) String() string {
	return [...]string{"deny", "allow", "pass", "log"}[a]
}

// A Tier is a stage of the decision. Tiers are asked in the order of Order, then Name. Within a tier the policies that apply
// to the pod in the direction are asked in the order of Policy.Order, then of names, namespaces and kinds, rule by rule; the first
// rule that matches decides, except by Log. What no rule of the tier has decided gets End, if any policy of the tier applies
// to the pod in that direction, and else the next tier. What the last tier passes is allowed.
type Tier struct {
	Name  string
	Order float64 // lower first; +Inf last. No NaN.
	// End is Deny or Pass.
	End Action
}

// The names of the tiers that always are. Calico's own orders, so that its tiers fit between.
const (
	AdminTier    = "kube-admin"    // ClusterNetworkPolicies of tier Admin
	DefaultTier  = "default"       // NetworkPolicies, and Calico's policies that name no other
	BaselineTier = "kube-baseline" // ClusterNetworkPolicies of tier Baseline
)

// Tiers returns the tiers that always are.
func Tiers() []Tier {
	return []Tier{
		{Name: AdminTier, Order: 1_000, End: Pass},
		{Name: DefaultTier, Order: 1_000_000, End: Deny},
		{Name: BaselineTier, Order: 10_000_000, End: Pass},
	}
}

// NetworkPolicyOrder is the order of every NetworkPolicy in DefaultTier, as Calico has it.
const NetworkPolicyOrder = 1000

// Last is the order of what has none.
var Last = math.Inf(1)

// A Policy is one object in normal form. It is immutable.
type Policy struct {
	Ref   Ref
	Tier  string // of a Tier that is not known: the policy denies all, as its rules cannot be put in order
	Order float64
	// SortName is the name by which it is sorted among those of its Order, empty for that of Ref.
	SortName string
	// Subject is whom it is about: only pods that have a network of their own.
	Subject Pods
	// Applies says for which directions it is in force: only there its tier ends with End, and only there its rules are read.
	// By Direction.
	Applies [2]bool
	// Rules by Direction, in order. None is nothing decided.
	Rules [2][]Rule
}

// A Rule matches what its peers send or get at its ports.
type Rule struct {
	Action Action
	// Subject narrows the Policy's to some of its pods, nil for all of them.
	Subject *Pods
	// Peers are alternatives: none is nobody, and Peer{Any: true} is anybody, known or not.
	Peers []Peer
	Ports Ports
}

// A Peer is addresses: those that satisfy all of what is set. One in which nothing is set is nobody.
type Peer struct {
	// Any is every address of both families. Nothing else is set then.
	Any bool
	// Pods are the addresses of these pods, nil for no such condition.
	Pods *Pods
	// NotPods are not the addresses of these pods, nil for no such condition.
	NotPods *Pods
	// Nets are addresses within one of these, whoever has them, and Except those outside of all of these. Masked, never v4-mapped. A
	// Peer with only Except, or only NotPods, has the two networks 0.0.0.0/0 and ::/0 written in Nets.
	Nets, Except []netip.Prefix
	// Nodes are the addresses of the nodes whose labels match, nil for no such condition.
	Nodes Selector
	// Domains are what these names led to: as World.Domain gives them.
	Domains []string
}

// Pods selects pods that are alive and have a network of their own.
type Pods struct {
	// Namespace is the one they are in, empty for any.
	Namespace string
	// Namespaces selects their namespace, nil for any.
	Namespaces Selector
	// Labels selects the pods, nil for all.
	Labels Selector
}

// A Labelled is what a Selector is asked about: a pod with its namespace's name, or a namespace or node with its own.
type Labelled struct {
	Namespace string // of a pod; empty otherwise
	Name      string // of a namespace or node; empty for pods, so that those with equal labels are asked about once
	Account   string // service account of a pod
	Labels    map[string]string
}

// A Selector tells by labels. Two with the same String must match the same: they are one to the compiler. Implementations are
// immutable and safe for concurrent use.
type Selector interface {
	fmt.Stringer
	Matches(Labelled) bool
}

// Ports are points: what of a peer's traffic a rule matches. The zero value is nothing.
type Ports struct {
	// Points are sorted and disjoint; Log is not set.
	Points []Interval
	// Named are resolved at the pod the packets are for: the subject of an ingress rule, the peer of an egress rule. They match
	// nothing at a peer that is no pod, and at a pod that has no such port; if two containers give the name to two ports, both.
	Named []NamedPort
}

// A NamedPort is the name of a container's port.
type NamedPort struct {
	Protocol cluster.Protocol
	Name     string
}

// AllPorts is everything, of every protocol.
func AllPorts() Ports { return Ports{Points: []Interval{All}} }
