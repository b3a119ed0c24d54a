package policy_test

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// oracleMaps are maps as a kernel looks them up.
type oracleMaps struct {
	policy.Maps // what plans do not call
	has         policy.Contents
}

func newOracleMaps() *oracleMaps {
	return &oracleMaps{has: policy.Contents{
		Verdicts: map[policy.VerdictKey][]policy.Interval{}, Peers: map[netip.Addr]uint64{},
		CIDRs: map[netip.Prefix]uint64{}, Pods: map[uint16]policy.PodSets{},
	}}
}

func (m *oracleMaps) PutVerdict(k policy.VerdictKey, list []policy.Interval) error {
	m.has.Verdicts[k] = list
	return nil
}

func (m *oracleMaps) DeleteVerdict(k policy.VerdictKey) error { delete(m.has.Verdicts, k); return nil }
func (m *oracleMaps) PutPeer(a netip.Addr, c uint64) error    { m.has.Peers[a] = c; return nil }
func (m *oracleMaps) DeletePeer(a netip.Addr) error           { delete(m.has.Peers, a); return nil }
func (m *oracleMaps) PutCIDR(p netip.Prefix, c uint64) error  { m.has.CIDRs[p] = c; return nil }
func (m *oracleMaps) DeleteCIDR(p netip.Prefix) error         { delete(m.has.CIDRs, p); return nil }
func (m *oracleMaps) PutPod(n uint16, s policy.PodSets) error { m.has.Pods[n] = s; return nil }
func (m *oracleMaps) Bump() error                             { return nil }
func (m *oracleMaps) Grace() error                            { return nil }

func (m *oracleMaps) class(addr netip.Addr) uint64 {
	if class, ok := m.has.Peers[addr]; ok {
		return class
	}
	for bits := addr.BitLen(); bits >= 0; bits-- {
		if class, ok := m.has.CIDRs[netip.PrefixFrom(addr, bits).Masked()]; ok {
			return class
		}
	}
	return 0
}

// verdict is whether a connection is allowed, and logged.
func (m *oracleMaps) verdict(number uint16, d policy.Direction, peer netip.Addr, point uint32) (allowed, logged bool) {
	set := m.has.Pods[number][d]
	if set == 0 {
		return true, false
	}
	list, ok := m.has.Verdicts[policy.VerdictKey{Set: set, Class: m.class(peer)}]
	if !ok {
		list = m.has.Verdicts[policy.VerdictKey{Set: set}]
	}
	for _, i := range list {
		if i.Lo <= point && point <= i.Hi {
			return true, i.Log
		}
	}
	return false, false
}

var oracleRoom = policy.Room{Verdicts: 1 << 20, Peers: 1 << 20, CIDRs: 1 << 20, Cells: 1 << 20, Pods: 1 << 16}

// A draw makes objects that use all that there is in the three APIs.
type draw struct{ *rapid.T }

func pick[V any](d draw, of ...V) V { return rapid.SampledFrom(of).Draw(d.T, "pick") }

func some[V any](d draw, most int, make func() V) []V {
	list := []V{}
	for range rapid.IntRange(0, most).Draw(d.T, "some") {
		list = append(list, make())
	}
	return list
}

func maybe[V any](d draw, v func() V) *V {
	if rapid.Bool().Draw(d.T, "maybe") {
		return nil
	}
	got := v()
	return &got
}

func (d draw) oneIn(n int) bool { return rapid.IntRange(1, n).Draw(d.T, "one in") == n }

func (d draw) namespace() string { return pick(d, "red", "blue", "green") }

func (d draw) labels() map[string]string {
	labels := map[string]string{}
	for _, name := range []string{"a", "b"} {
		if value := pick(d, "", "x", "y", "xy"); value != "" {
			labels[name] = value
		}
	}
	return labels
}

func (d draw) selector() metav1.LabelSelector {
	var s metav1.LabelSelector
	switch d := d; pick(d, 0, 1, 2, 3) {
	case 1:
		s.MatchLabels = map[string]string{pick(d, "a", "b"): pick(d, "x", "y")}
	case 2:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: pick(d, "a", "b"), Operator: pick(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"x", "xy"}}}
	case 3:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: pick(d, "a", "b"), Operator: pick(d, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}}
	}
	return s
}

func (d draw) net() string {
	return pick(d, "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/30", "10.1.0.2/32", "10.1.0.8/29", "192.0.2.0/24", "192.0.2.128/25",
		"0.0.0.0/0", "fd00::/16", "fd00:1::/64", "fd00:1::2/128", "::/0")
}

func (d draw) within(net string) string { // a network in another one
	outer := netip.MustParsePrefix(net)
	return netip.PrefixFrom(outer.Addr(), min(outer.Bits()+pick(d, 1, 3, 22), outer.Addr().BitLen())).String()
}

func (d draw) portName() string { return pick(d, "web", "dns", "none") }

// objects draws a cluster. Pods 0 to 4 are of this node.
func (d draw) objects() cluster.Objects {
	o := cluster.Objects{Namespaces: []string{"red", "blue", "green"}, NamespaceLabels: map[string]map[string]string{}}
	for _, name := range o.Namespaces {
		o.NamespaceLabels[name] = d.namespaceLabels(name)
	}
	for i := range 7 {
		o.PolicyPods = append(o.PolicyPods, d.pod(i))
	}
	for i := range 2 {
		o.PolicyNodes = append(o.PolicyNodes, d.node(i))
	}
	for i := range rapid.IntRange(0, 2).Draw(d.T, "v1") {
		o.NetworkPolicies = append(o.NetworkPolicies, d.networkPolicy(fmt.Sprint("p", i)))
	}
	for i := range rapid.IntRange(0, 3).Draw(d.T, "cnp") {
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, d.clusterPolicy(fmt.Sprint("p", i)))
	}
	for i := range rapid.IntRange(0, 4).Draw(d.T, "calico") {
		o.CalicoPolicies = append(o.CalicoPolicies, d.calicoPolicy(fmt.Sprint("p", i)))
	}
	for _, name := range []string{"early", "late"} {
		if d.oneIn(2) {
			o.CalicoTiers = append(o.CalicoTiers, d.calicoTier(name))
		}
	}
	for i := range rapid.IntRange(0, 2).Draw(d.T, "sets") {
		o.CalicoNetworkSets = append(o.CalicoNetworkSets, d.networkSet(fmt.Sprint("s", i)))
	}
	return o
}

func (d draw) namespaceLabels(name string) map[string]string {
	labels := d.labels()
	labels["kubernetes.io/metadata.name"] = name
	return labels
}

func (d draw) node(i int) *cluster.PolicyNode {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
	return &cluster.PolicyNode{Name: fmt.Sprint("node", i), Addrs: addrs, Labels: d.labels()}
}

func podAddrs(i int) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.1.0.%d", i+1)), netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", i+1))}
}

func (d draw) pod(i int) *cluster.PolicyPod {
	p := &cluster.PolicyPod{
		Name: cluster.Name{Namespace: d.namespace(), Name: fmt.Sprint("pod", i)}, Local: i < 5, Node: "node0",
		ServiceAccount: pick(d, "default", "robot"), Addrs: podAddrs(i), Labels: d.labels(),
		Phase: cluster.PodRunning,
	}
	if i >= 5 {
		p.Node = "node1"
		p.HostNetwork = d.oneIn(5)
	}
	for _, port := range []cluster.NamedPort{{Name: "dns", Protocol: cluster.UDP, Port: 53}, {Name: "web", Protocol: cluster.TCP, Port: pick[uint16](d, 80, 8080)}} {
		if d.oneIn(2) {
			p.Ports = append(p.Ports, port)
		}
	}
	return p
}

func (d draw) networkPolicy(name string) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Namespace: d.namespace(), Name: name}}}
	p.Spec.PodSelector = d.selector()
	p.Spec.PolicyTypes = pick(d, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"}, nil)
	peers := func() []networkingv1.NetworkPolicyPeer {
		return some(d, 2, func() networkingv1.NetworkPolicyPeer {
			if d.oneIn(2) {
				net := d.net()
				return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: net, Except: some(d, 1, func() string { return d.within(net) })}}
			}
			selector := d.selector()
			return networkingv1.NetworkPolicyPeer{PodSelector: &selector, NamespaceSelector: maybe(d, d.selector)}
		})
	}
	ports := func() []networkingv1.NetworkPolicyPort {
		return some(d, 1, func() networkingv1.NetworkPolicyPort {
			return networkingv1.NetworkPolicyPort{Port: maybe(d, func() intstr.IntOrString {
				return pick(d, intstr.FromInt32(80), intstr.FromString("web"))
			})}
		})
	}
	p.Spec.Ingress = some(d, 2, func() networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: peers(), Ports: ports()}
	})
	p.Spec.Egress = some(d, 2, func() networkingv1.NetworkPolicyEgressRule {
		return networkingv1.NetworkPolicyEgressRule{To: peers(), Ports: ports()}
	})
	return p
}

func (d draw) clusterPolicy(name string) *cluster.ClusterNetworkPolicy {
	p := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Name: name}}}
	p.Spec = cluster.ClusterNetworkPolicySpec{Tier: pick(d, cluster.TierAdmin, cluster.TierBaseline), Priority: pick[int32](d, 0, 7, 7, 1000), Subject: d.clusterPods()}
	rule := func(egress bool) func() cluster.ClusterPolicyRule {
		return func() cluster.ClusterPolicyRule {
			r := cluster.ClusterPolicyRule{Action: pick(d, cluster.ClusterAccept, cluster.ClusterDeny, cluster.ClusterPass)}
			peers := append(some(d, 1, func() cluster.ClusterPolicyPeer { return d.clusterPeer(egress, r.Action) }), d.clusterPeer(egress, r.Action))
			r.From = peers
			if egress {
				r.From, r.To = nil, peers
			}
			named := !slices.ContainsFunc(peers, func(p cluster.ClusterPolicyPeer) bool {
				return p.Nodes != nil || p.Networks != nil || p.DomainNames != nil
			})
			r.Protocols = some(d, 2, func() cluster.ClusterPolicyProtocol { return d.clusterProtocol(named) })
			return r
		}
	}
	p.Spec.Ingress, p.Spec.Egress = some(d, 3, rule(false)), some(d, 3, rule(true))
	return p
}

func (d draw) clusterPods() cluster.ClusterPolicyPods {
	namespaces := d.selector()
	if d.oneIn(2) {
		return cluster.ClusterPolicyPods{Namespaces: &namespaces}
	}
	return cluster.ClusterPolicyPods{Pods: &cluster.NamespacedPods{NamespaceSelector: namespaces, PodSelector: d.selector()}}
}

func (d draw) clusterPeer(egress bool, action string) cluster.ClusterPolicyPeer {
	kind := pick(d, "pods", "pods", "nodes", "networks", "domains", "unknown")
	switch {
	case kind == "unknown" && d.oneIn(3):
		return cluster.ClusterPolicyPeer{}
	case egress && kind == "nodes":
		selector := d.selector()
		return cluster.ClusterPolicyPeer{Nodes: &selector}
	case egress && kind == "networks":
		return cluster.ClusterPolicyPeer{Networks: append(some(d, 1, d.net), d.net())}
	case egress && kind == "domains" && action == cluster.ClusterAccept:
		return cluster.ClusterPolicyPeer{DomainNames: []string{pick(d, "www.Example.com.", "*.example.com", "example.org")}}
	}
	return cluster.ClusterPolicyPeer{ClusterPolicyPods: d.clusterPods()}
}

func (d draw) clusterProtocol(named bool) cluster.ClusterPolicyProtocol {
	var ports cluster.ClusterPolicyPorts
	switch pick(d, 0, 1, 2) {
	case 1:
		ports.DestinationPort = &cluster.ClusterPolicyPort{Number: pick[int32](d, 53, 80, 8080)}
	case 2:
		ports.DestinationPort = &cluster.ClusterPolicyPort{}
		ports.DestinationPort.Range = &struct {
			Start int32 `json:"start"`
			End   int32 `json:"end"`
		}{pick[int32](d, 1, 80), pick[int32](d, 81, 65535)}
	}
	switch kind := pick(d, 0, 1, 2, 3); {
	case kind == 0:
		return cluster.ClusterPolicyProtocol{TCP: &ports}
	case kind == 1:
		return cluster.ClusterPolicyProtocol{SCTP: &ports}
	case kind == 2 && named:
		return cluster.ClusterPolicyProtocol{DestinationNamedPort: d.portName()}
	}
	return cluster.ClusterPolicyProtocol{UDP: &ports}
}
