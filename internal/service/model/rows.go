package model

import (
	"slices"
	"strings"
)

// A Row is one rule of kube-proxy's behaviour: the reference has them by these names.
type Row struct{ Name, Says string }

// Rows are all of them, in order.
func Rows() []Row { return slices.Clone(rows) }

// Says is the row of that name in words, empty for none.
func Says(name string) string {
	for _, row := range rows {
		if row.Name == name {
			return row.Says
		}
	}
	return ""
}

// Break returns the rules with one mutation: a row turned off or made wrong in one way. Mutations lists them.
func (r Rules) Break(mutation string) Rules {
	r.broken = mutation
	return r
}

// Breaks reports whether that mutation is on.
func (r Rules) Breaks(mutation string) bool { return r.broken == mutation }

// A Mutation makes a row wrong in one way.
type Mutation struct {
	// Name is the row, and one more word where the row has several mutations.
	Name string
	What string // is wrong then
}

// Row is the row that the mutation is of.
func (m Mutation) Row() string {
	row, _, _ := strings.Cut(m.Name, " ")
	return row
}

var rows = []Row{
	{"A1", "a Service is served unless it is headless, of type ExternalName or another proxy's"},
	{"A2", "all endpoint slices of a Service count together, those of headless Services not at all"},
	{"A3", "an endpoint that does not say so is ready and serving and does not terminate, and its first address counts"},
	{"A4", "of two copies of an endpoint the one that does not terminate counts"},
	{"A5", "an endpoint that says it is ready is, even while it terminates"},
	{"A6", "an endpoint is local if it names this node"},
	{"A7", "the families of a Service know nothing of each other"},
	{"A8", "nothing is programmed before Services and endpoint slices are all there"},
	{"A9", "targetPort, trafficDistribution, loadBalancerIP and the like do not count"},
	{"A10", "a load balancer's address is served without a node port, too"},
	{"A11", "a port that a Service's cluster IP does not have refuses, and a cluster IP that nobody has does not answer"},
	{"B1", "a cluster IP is answered, with the internal policy for whoever asks; clients from outside are masqueraded"},
	{"B2", "an external IP is answered, unless that is turned off"},
	{"B3", "a node port is answered on the node's addresses that nodePortAddresses allow"},
	{"B4", "a node port is answered on loopback to the node's own processes"},
	{"B5", "a load balancer's address is answered in its place, unless its ipMode is Proxy"},
	{"B6", "what no Service has is none of the proxy's business"},
	{"B7", "a host port is answered on the node"},
	{"B8", "of several who claim an address a cluster IP comes first, then the older Service"},
	{"B9", "a port answers its own protocol only"},
	{"C1", "endpoints that terminate and still serve count when none is ready"},
	{"C2", "the local list falls back to terminating endpoints on its own"},
	{"C3", "of the cluster list those count that topology hints give to this node or zone"},
	{"C4", "hints do not count for the local list"},
	{"C5", "the cluster list is there for clients inside even with internalTrafficPolicy Local"},
	{"C6", "every backend of the list is equally likely"},
	{"D1", "nothing serves the port anywhere: refused"},
	{"D2", "internalTrafficPolicy is Local and nothing on this node serves the port: no answer, as others elsewhere could"},
	{"D3", "externalTrafficPolicy is Local and nothing on this node serves the port: no answer, as others elsewhere could"},
	{"D4", "clients from outside are refused like those inside"},
	{"D5", "the cluster IP of a Service that is gone is nobody's"},
	{"D6", "a socket's call is left to wait for an answer that never comes, as without the proxy"},
	{"E1", "clients from outside are masqueraded with externalTrafficPolicy Cluster"},
	{"E2", "clients from outside keep their address and get local endpoints with externalTrafficPolicy Local"},
	{"E3", "the internal policy counts for cluster IPs only, the external one for all other addresses"},
	{"E4", "a client inside the cluster uses the whole cluster's list, whatever externalTrafficPolicy says"},
	{"E5", "a node port of another node is left to that node"},
	{"E6", "a pod that reaches itself sees the node's address where packets are translated, its own where sockets are"},
	{"E7", "no marks and chains of kube-proxy are used or left"},
	{"E8", "a load balancer's address answers only the clients of loadBalancerSourceRanges"},
	{"E9", "a pod of another node is a client from outside"},
	{"F1", "a client keeps its backend on all addresses of a Service port until it has not connected for the timeout"},
	{"F2", "a client is an address: pods are different clients, and ports of a Service know nothing of each other"},
	{"F3", "who a client is does not depend on how it connects"},
	{"F4", "a client keeps only a backend that is in its list"},
	{"F5", "a changed timeout counts for clients that have a backend already, and switching affinity off forgets them"},
	{"G1", "TCP, UDP and SCTP are served"},
	{"G2", "a UDP flow ends when its endpoint no longer serves"},
	{"G3", "a TCP connection is left to its endpoint until that ends it"},
	{"G4", "no packet of a translated connection leaves untranslated"},
	{"G5", "ICMP errors about translated packets, and fragments, are translated"},
	{"G6", "kube-proxy's settings of nf_conntrack are left"},
	{"H1", "the health-check node port says how many local endpoints are ready"},
	{"H2", "/healthz and /livez of port 10256"},
	{"H3", "/metrics, /proxyMode and /configz of port 10249"},
	{"H4", "kube-proxy's names of metrics"},
	{"H5", "a change is in the kernel in milliseconds"},
	{"H6", "what is served goes on without the agent"},
	{"H7", "a pod that terminates gets no new connections and keeps those it has"},
	{"H8", "connections survive the switch from kube-proxy and back"},
}
