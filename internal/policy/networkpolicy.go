package policy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/nearpath/nearpath/internal/cluster"
)

const kindNetworkPolicy = "NetworkPolicy"

// FromNetworkPolicy translates an object that has been checked, as those of a Snapshot are. What the check should have refused matches
// nothing.
func FromNetworkPolicy(in *cluster.NetworkPolicy) *Policy {
	ingress, egress := in.Isolates()
	p := &Policy{
		Ref:     Ref{kindNetworkPolicy, in.Name},
		Tier:    DefaultTier,
		Order:   NetworkPolicyOrder,
		Subject: Pods{Namespace: in.Name.Namespace, Labels: checked(&in.Spec.PodSelector)},
		Applies: [2]bool{Ingress: ingress, Egress: egress},
	}
	for i := range in.Spec.Ingress {
		p.Rules[Ingress] = append(p.Rules[Ingress], kubernetesRule(in.Name.Namespace, in.Spec.Ingress[i].From, in.Spec.Ingress[i].Ports))
	}
	for i := range in.Spec.Egress {
		p.Rules[Egress] = append(p.Rules[Egress], kubernetesRule(in.Name.Namespace, in.Spec.Egress[i].To, in.Spec.Egress[i].Ports))
	}
	return p
}

// kubernetesRule: no peers are everybody, no ports every protocol, ICMP and others as well. A list is not empty because what it has
// cannot be matched.
func kubernetesRule(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) Rule {
	rule := Rule{Action: Allow, Ports: AllPorts()}
	if len(ports) > 0 {
		rule.Ports = kubernetesPorts(ports)
	}
	if len(peers) == 0 {
		rule.Peers = []Peer{{Any: true}}
	}
	for i := range peers {
		rule.Peers = append(rule.Peers, kubernetesPeer(namespace, &peers[i]))
	}
	return rule
}

// kubernetesPeer of a kind that this version of the API does not have is nobody.
func kubernetesPeer(namespace string, in *networkingv1.NetworkPolicyPeer) (peer Peer) {
	if in.IPBlock != nil {
		return kubernetesBlock(in.IPBlock)
	}
	if in.PodSelector == nil && in.NamespaceSelector == nil {
		return Peer{}
	}
	peer.Pods = &Pods{}
	if in.PodSelector != nil {
		peer.Pods.Labels = checked(in.PodSelector)
	}
	if in.NamespaceSelector != nil {
		peer.Pods.Namespaces = checked(in.NamespaceSelector)
	} else {
		peer.Pods.Namespace = namespace
	}
	return peer
}

func kubernetesBlock(in *networkingv1.IPBlock) Peer {
	net, err := netip.ParsePrefix(in.CIDR)
	if err != nil {
		return Peer{}
	}
	peer := Peer{Nets: []netip.Prefix{net.Masked()}}
	for _, text := range in.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return Peer{}
		}
		peer.Except = append(peer.Except, except.Masked())
	}
	return peer
}

func kubernetesPorts(in []networkingv1.NetworkPolicyPort) (ports Ports) {
	for i := range in {
		protocol, ok := map[corev1.Protocol]cluster.Protocol{
			corev1.ProtocolTCP: cluster.TCP, corev1.ProtocolUDP: cluster.UDP, corev1.ProtocolSCTP: cluster.SCTP,
		}[ptr.Deref(in[i].Protocol, corev1.ProtocolTCP)]
		switch port := in[i].Port; {
		case !ok:
		case port == nil:
			ports.Points = append(ports.Points, Whole(protocol))
		case port.Type == intstr.String:
			ports.Named = append(ports.Named, NamedPort{protocol, port.StrVal})
		default:
			last := ptr.Deref(in[i].EndPort, port.IntVal)
			ports.Points = append(ports.Points, Range(protocol, uint16(port.IntVal), uint16(last)))
		}
	}
	ports.Points = union(ports.Points)
	return ports
}
