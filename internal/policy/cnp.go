package policy

import (
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/internal/cluster"
)

const (
	kindClusterNetworkPolicy = "ClusterNetworkPolicy"
)

// FromClusterNetworkPolicy translates an object that has been checked, as those of a Snapshot are.
func FromClusterNetworkPolicy(in *cluster.ClusterNetworkPolicy) *Policy {
	p := &Policy{
		Ref:     Ref{kindClusterNetworkPolicy, in.Name},
		Tier:    AdminTier,
		Order:   float64(in.Spec.Priority),
		Subject: clusterPods(&in.Spec.Subject),
		// A direction without rules is not concerned; with some, what they do not decide goes on to the next tier.
		Applies: [2]bool{Ingress: len(in.Spec.Ingress) > 0, Egress: len(in.Spec.Egress) > 0},
	}
	if in.Spec.Tier == cluster.TierBaseline {
		p.Tier = BaselineTier
	}
	for i := range in.Spec.Ingress {
		p.Rules[Ingress] = append(p.Rules[Ingress], clusterRule(&in.Spec.Ingress[i], in.Spec.Ingress[i].From))
	}
	for i := range in.Spec.Egress {
		p.Rules[Egress] = append(p.Rules[Egress], clusterRule(&in.Spec.Egress[i], in.Spec.Egress[i].To))
	}
	return p
}

func clusterRule(in *cluster.ClusterPolicyRule, peers []cluster.ClusterPolicyPeer) Rule {
	rule := Rule{Action: Deny, Ports: clusterPorts(in.Protocols)}
	switch in.Action {
	case cluster.ClusterAccept:
		rule.Action = Allow
	case cluster.ClusterPass:
		rule.Action = Pass
	}
	for i := range peers {
		if peers[i].Known() {
			rule.Peers = append(rule.Peers, clusterPeer(&peers[i]))
			continue
		}
		// A field of a later version of the API. A rule that accepts then matches nothing, any other one denies everything.
		if rule.Action == Allow {
			return Rule{Action: Allow}
		}
		return Rule{Action: Deny, Peers: []Peer{{Any: true}}, Ports: AllPorts()}
	}
	return rule
}

func clusterPeer(in *cluster.ClusterPolicyPeer) Peer {
	switch {
	case in.Nodes != nil:
		return Peer{Nodes: nodeSelector(in.Nodes)}
	case in.Networks != nil:
		var peer Peer
		for _, text := range in.Networks {
			if net, err := netip.ParsePrefix(text); err == nil {
				peer.Nets = append(peer.Nets, net.Masked())
			}
		}
		return peer
	case in.DomainNames != nil:
		var peer Peer
		for _, name := range in.DomainNames {
			peer.Domains = append(peer.Domains, FoldName(name))
		}
		return peer
	}
	pods := clusterPods(&in.ClusterPolicyPods)
	return Peer{Pods: &pods}
}

func clusterPods(in *cluster.ClusterPolicyPods) Pods {
	if in.Pods != nil {
		return Pods{Namespaces: checked(&in.Pods.NamespaceSelector), Labels: checked(&in.Pods.PodSelector)}
	}
	return Pods{Namespaces: checked(in.Namespaces)}
}

// checked converts a selector that has been found good.
func checked(in *metav1.LabelSelector) Selector {
	s, err := labelSelector(in)
	if err != nil {
		return nobody{}
	}
	return s
}

// nodeSelector is checked for nodes, where no selector means that there is no such condition.
func nodeSelector(in *metav1.LabelSelector) Selector {
	if s := checked(in); s != nil {
		return s
	}
	return everybody{}
}

type (
	nobody    struct{}
	everybody struct{}
)

// Matches implements Selector.
func (nobody) Matches(Labelled) bool { return false }
func (nobody) String() string        { return "nobody" }

// Matches implements Selector.
func (everybody) Matches(Labelled) bool { return true }
func (everybody) String() string        { return "everybody" }

// clusterPorts are everything, ICMP as well, when no protocol is named.
func clusterPorts(in []cluster.ClusterPolicyProtocol) Ports {
	if len(in) == 0 {
		return AllPorts()
	}
	var ports Ports
	for i := range in {
		p := &in[i]
		for protocol, of := range map[cluster.Protocol]*cluster.ClusterPolicyPorts{cluster.TCP: p.TCP, cluster.UDP: p.UDP, cluster.SCTP: p.SCTP} {
			switch {
			case of == nil:
			case of.DestinationPort == nil:
				ports.Points = append(ports.Points, Whole(protocol))
			default:
				first, last := of.DestinationPort.Bounds()
				ports.Points = append(ports.Points, Range(protocol, first, last))
			}
		}
		if p.DestinationNamedPort != "" {
			ports.Named = append(ports.Named, anyProtocol(p.DestinationNamedPort)...)
		}
	}
	ports.Points = union(ports.Points)
	return ports
}

// anyProtocol is a named port whose protocol the container says.
func anyProtocol(name string) []NamedPort {
	return []NamedPort{{cluster.TCP, name}, {cluster.UDP, name}, {cluster.SCTP, name}}
}
