package interpret

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nearpath/nearpath/internal/cluster"
)

// selects reports whether a selector takes labels; none is no selector. One that cannot be read takes nothing.
func selects(selector *metav1.LabelSelector, of map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(of))
}

func contains(cidr string, addr netip.Addr) bool {
	prefix, err := netip.ParsePrefix(cidr)
	return err == nil && prefix.Contains(addr)
}

func networkPolicy(in *cluster.NetworkPolicy) policy {
	return policy{
		Policy: Policy{"NetworkPolicy", in.Name}, order: 1_000, name: in.Name.Name,
		isolates: func(c *packet) bool {
			return c.pod.Name.Namespace == in.Name.Namespace && selects(&in.Spec.PodSelector, c.pod.Labels) && hasType(&in.Spec, c.Ingress)
		},
		rule: func(c *packet, i int) (action, bool, bool) {
			if c.Ingress {
				if i == len(in.Spec.Ingress) {
					return 0, false, false
				}
				r := &in.Spec.Ingress[i]
				return allow, ruleMatches(c, in.Name.Namespace, r.From, r.Ports), true
			}
			if i == len(in.Spec.Egress) {
				return 0, false, false
			}
			r := &in.Spec.Egress[i]
			return allow, ruleMatches(c, in.Name.Namespace, r.To, r.Ports), true
		},
	}
}

// hasType reports whether a policy is about a direction. Without policyTypes it is about ingress, and about egress if it has rules
// for that.
func hasType(spec *networkingv1.NetworkPolicySpec, ingress bool) bool {
	switch {
	case len(spec.PolicyTypes) == 0:
		return ingress || len(spec.Egress) > 0
	case ingress:
		return slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress)
	}
	return slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// ruleMatches takes an empty list of peers, or of ports, for all of them.
func ruleMatches(c *packet, namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) bool {
	for _, f := range c.faces {
		peer := len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return peerMatches(c, namespace, &p, f) })
		port := len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return portMatches(c, &p, f) })
		if peer && port {
			return true
		}
	}
	return false
}

func peerMatches(c *packet, namespace string, peer *networkingv1.NetworkPolicyPeer, f face) bool {
	if block := peer.IPBlock; block != nil {
		return contains(block.CIDR, f.addr) && !slices.ContainsFunc(block.Except, func(cidr string) bool { return contains(cidr, f.addr) })
	}
	if f.pod == nil || peer.PodSelector == nil && peer.NamespaceSelector == nil { // the latter is a field of a later version
		return false
	}
	if peer.PodSelector != nil && !selects(peer.PodSelector, f.pod.Labels) {
		return false
	}
	if peer.NamespaceSelector != nil {
		return selects(peer.NamespaceSelector, c.Snapshot.NamespaceLabels(f.pod.Name.Namespace))
	}
	return f.pod.Name.Namespace == namespace
}

func portMatches(c *packet, port *networkingv1.NetworkPolicyPort, f face) bool {
	protocol := cluster.TCP
	if port.Protocol != nil {
		protocol = map[string]cluster.Protocol{"TCP": cluster.TCP, "UDP": cluster.UDP, "SCTP": cluster.SCTP}[string(*port.Protocol)]
	}
	if c.Protocol != protocol {
		return false
	}
	if port.Port == nil {
		return true
	}
	if port.Port.Type == intstr.String {
		return c.named(f, port.Port.StrVal)
	}
	_, got := c.destination(f)
	last := port.Port.IntVal
	if port.EndPort != nil {
		last = *port.EndPort
	}
	return port.Port.IntVal <= int32(got) && int32(got) <= last
}

func clusterPolicy(in *cluster.ClusterNetworkPolicy) policy {
	return policy{
		Policy: Policy{"ClusterNetworkPolicy", in.Name}, order: float64(in.Spec.Priority), name: in.Name.Name,
		isolates: func(c *packet) bool { return podsMatch(c, &in.Spec.Subject, c.pod) },
		rule: func(c *packet, i int) (action, bool, bool) {
			rules := in.Spec.Egress
			if c.Ingress {
				rules = in.Spec.Ingress
			}
			if i == len(rules) {
				return 0, false, false
			}
			does, matches := clusterRule(c, &rules[i])
			return does, matches, true
		},
	}
}

func clusterRule(c *packet, rule *cluster.ClusterPolicyRule) (does action, matches bool) {
	does = map[string]action{cluster.ClusterAccept: allow, cluster.ClusterDeny: deny, cluster.ClusterPass: pass}[rule.Action]
	peers := rule.To
	if c.Ingress {
		peers = rule.From
	}
	if slices.ContainsFunc(peers, func(p cluster.ClusterPolicyPeer) bool { return !p.Known() }) {
		// The API: fail closed, which is to match nothing, or to deny everything.
		if does == allow {
			return allow, false
		}
		return deny, true
	}
	for _, f := range c.faces {
		for i := range peers {
			if clusterPeer(c, &peers[i], f) && clusterPorts(c, rule.Protocols, f) {
				return does, true
			}
		}
	}
	return does, false
}

func podsMatch(c *packet, pods *cluster.ClusterPolicyPods, pod *cluster.PolicyPod) bool {
	if pod == nil {
		return false
	}
	of := c.Snapshot.NamespaceLabels(pod.Name.Namespace)
	if pods.Pods != nil {
		return selects(&pods.Pods.NamespaceSelector, of) && selects(&pods.Pods.PodSelector, pod.Labels)
	}
	return selects(pods.Namespaces, of)
}

func clusterPeer(c *packet, peer *cluster.ClusterPolicyPeer, f face) bool {
	switch {
	case peer.Nodes != nil:
		for node := range c.Snapshot.PolicyNodes() {
			if slices.Contains(node.Addrs, f.addr) && selects(peer.Nodes, node.Labels) {
				return true
			}
		}
		return false
	case peer.Networks != nil:
		return slices.ContainsFunc(peer.Networks, func(cidr string) bool { return contains(cidr, f.addr) })
	case peer.DomainNames != nil:
		return c.Domain != nil && slices.ContainsFunc(peer.DomainNames, func(name string) bool { return slices.Contains(c.Domain(name), f.addr) })
	}
	return podsMatch(c, &peer.ClusterPolicyPods, f.pod)
}

// clusterPorts takes an empty list for everything.
func clusterPorts(c *packet, protocols []cluster.ClusterPolicyProtocol, f face) bool {
	return len(protocols) == 0 || slices.ContainsFunc(protocols, func(p cluster.ClusterPolicyProtocol) bool {
		switch {
		case p.DestinationNamedPort != "":
			return c.named(f, p.DestinationNamedPort)
		case p.TCP != nil:
			return c.Protocol == cluster.TCP && clusterPort(c, p.TCP.DestinationPort, f)
		case p.UDP != nil:
			return c.Protocol == cluster.UDP && clusterPort(c, p.UDP.DestinationPort, f)
		case p.SCTP != nil:
			return c.Protocol == cluster.SCTP && clusterPort(c, p.SCTP.DestinationPort, f)
		}
		return false
	})
}

func clusterPort(c *packet, port *cluster.ClusterPolicyPort, f face) bool {
	if port == nil {
		return true
	}
	_, got := c.destination(f)
	first, last := port.Bounds()
	return first <= got && got <= last
}
