// Package model decides what becomes of a connection to a Service, straight from the rows of kube-proxy's behaviour: loops
// over the objects of the API, without indexes, caches or anything shared with the planner. It is slow on purpose. Tests
// hold the planner, the programs and the real kube-proxy against it, and it explains verdicts to people.
package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A World is everything that decides on one node.
type World struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	// ServiceCIDRs are the networks that cluster IPs are allocated from.
	ServiceCIDRs []netip.Prefix
	// ProxyName is the service.kubernetes.io/service-proxy-name that is served; empty: those without the label.
	ProxyName string
	// NoExternalIPs is the feature gate AllowServiceExternalIPs turned off.
	NoExternalIPs bool
	Node          Node
	// Deleted are Services that were there once. They decide nothing, which a test that makes changes wants to see.
	Deleted []*corev1.Service
}

// A Node is the node that decides.
type Node struct {
	Name   string
	Labels map[string]string
	// Addresses are those of the node's links but loopback. The first of a family is its primary one: what
	// nodePortAddresses calls so, what the node's own processes use, and what backends see of masqueraded clients.
	Addresses []netip.Addr
	// NodePortAddresses are CIDRs, or the word "primary". A family without any has node ports on every address.
	NodePortAddresses []string
	// Pods are the addresses of this node's pods, those of the host network left out.
	Pods []netip.Addr
	// RemotePods and OtherNodes are addresses of pods and nodes elsewhere in the cluster. They decide nothing: here they
	// are clients and destinations like any outside.
	RemotePods, OtherNodes []netip.Addr
}

// Primary is the node's primary address of a family, the zero Addr for none.
func (n *Node) Primary(v6 bool) netip.Addr {
	for _, a := range n.Addresses {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// A ClientKind says where a client is.
type ClientKind int

// The kinds. A pod of another node is outside: it has a proxy of its own.
const (
	Outside ClientKind = iota
	LocalPod
	NodeItself
)

func (k ClientKind) String() string {
	return [...]string{"outside", "pod", "node"}[k]
}

// A Client is who connects. The address is what its packets would have for a source without any Service.
type Client struct {
	Kind ClientKind
	Addr netip.Addr
}

func (c Client) inside() bool { return c.Kind != Outside }

func (c Client) String() string { return fmt.Sprintf("%s %s", c.Kind, c.Addr) }

// A Probe is one connection, or the first datagram of one.
type Probe struct {
	Client   Client
	To       netip.AddrPort
	Protocol corev1.Protocol
	// Packets says that the client's packets are translated one by one, and not its sockets' calls: SCTP, raw sockets,
	// sandboxed pods. It matters for a pod that reaches itself. Clients outside have no other way.
	Packets bool
}

func (p Probe) String() string {
	return fmt.Sprintf("%s -> %s/%s", p.Client, p.To, p.Protocol)
}

func (p Probe) v6() bool { return p.To.Addr().Is6() }

// An Outcome is what becomes of a Probe.
type Outcome int

// The outcomes.
const (
	Pass    Outcome = iota // no business of the Service proxy: it goes where it is addressed to
	Forward                // to one of the backends
	Reject                 // TCP reset or ICMP port unreachable: ECONNREFUSED
	Drop                   // no answer at all
)

func (o Outcome) String() string {
	return [...]string{"pass", "forward", "reject", "drop"}[o]
}

// A Source is whose address a backend sees.
type Source int

// The sources.
const (
	AsClient Source = iota
	AsNode
)

func (s Source) String() string { return [...]string{"client", "node"}[s] }

// A Backend is one that a connection may get. All of a Verdict are equally likely.
type Backend struct {
	Addr   netip.AddrPort
	Source Source
}

func (b Backend) String() string { return fmt.Sprintf("%s (sees %s)", b.Addr, b.Source) }

// A PortRef names a port of a Service. The zero value is none.
type PortRef struct {
	Namespace, Name string
	Port            int32
	Protocol        corev1.Protocol
}

func (r PortRef) String() string {
	if r == (PortRef{}) {
		return "no Service"
	}
	return fmt.Sprintf("%s/%s:%d/%s", r.Namespace, r.Name, r.Port, r.Protocol)
}

// A Verdict is what the rows say of a Probe.
type Verdict struct {
	Outcome  Outcome
	Port     PortRef
	Backends []Backend // of Forward, in the order of their addresses
	// Rows are those that decided, in the order in which they did.
	Rows []string
	// local says that the client chooses from the local list.
	local bool
}

func (v Verdict) String() string {
	s := v.Outcome.String()
	if v.Outcome == Forward {
		s += fmt.Sprintf(" to %v", v.Backends)
	}
	return fmt.Sprintf("%s (%s; %s)", s, v.Port, strings.Join(v.Rows, " "))
}

// Same reports whether two Verdicts have the same effect; why is not compared.
func (v Verdict) Same(o Verdict) bool {
	return v.Outcome == o.Outcome && slices.Equal(v.Backends, o.Backends)
}
