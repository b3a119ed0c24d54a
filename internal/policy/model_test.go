package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A model is a random cluster that changes.
type model struct {
	*rand.Rand
	store   *cluster.Store
	domains map[string][]netip.Addr
}

var (
	modelNets = []string{
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.4/30", "10.0.0.5/32", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.128/25",
		"192.168.0.0/16", "169.254.20.10/32", "fd00::/8", "fd00::/64", "fd00::4/126", "::/1", "128.0.0.0/1",
	}
	modelPorts   = []uint16{52, 53, 79, 80, 81, 443, 1053, 8080, 65535}
	modelValues  = []string{"a", "b", "c"}
	modelDomains = []string{"example.org", "*.example.com"}
	modelNodes   = []string{"n1", "n2"}
	dnsService   = cluster.Name{Namespace: "a", Name: "dns"}
	listeners    = []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd00:a::a")}
)

const modelLocals = 4

func (m *model) pick(list []string) string { return list[m.IntN(len(list))] }
func (m *model) one(of int) bool           { return m.IntN(of) == 0 }

// times is a small number, mostly 1.
func (m *model) times() int { return []int{0, 1, 1, 1, 2, 3}[m.IntN(6)] }

func (m *model) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if !m.one(3) {
			labels[key] = m.pick(modelValues)
		}
	}
	return labels
}

func (m *model) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch m.IntN(6) {
	case 0:
	case 1:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}
	case 2:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}
	case 3:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}}}
	default:
		s.MatchLabels = map[string]string{"app": m.pick(modelValues)}
	}
	return s
}

// block is a network and exceptions within it.
func (m *model) block() *networkingv1.IPBlock {
	net := netip.MustParsePrefix(m.pick(modelNets))
	block := &networkingv1.IPBlock{CIDR: net.String()}
	for _, text := range modelNets {
		inner := netip.MustParsePrefix(text)
		if inner != net && contain(net, inner) && m.one(3) {
			block.Except = append(block.Except, text)
		}
	}
	return block
}

func (m *model) peer() (peer networkingv1.NetworkPolicyPeer) {
	switch m.IntN(5) {
	case 0:
		peer.PodSelector = m.selector()
	case 1:
		peer.NamespaceSelector = m.selector()
	case 2:
		peer.PodSelector, peer.NamespaceSelector = m.selector(), m.selector()
	default:
		peer.IPBlock = m.block()
	}
	return peer
}

func (m *model) port() (port networkingv1.NetworkPolicyPort) {
	if !m.one(4) {
		protocol := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}[m.IntN(3)]
		port.Protocol = &protocol
	}
	switch m.IntN(5) {
	case 0:
	case 1:
		port.Port = new(intstr.FromString([]string{"http", "dns"}[m.IntN(2)]))
	case 2:
		first := modelPorts[m.IntN(len(modelPorts))]
		port.Port, port.EndPort = new(intstr.FromInt32(int32(first))), new(int32(first)+int32(m.IntN(int(65536-int(first)))))
	default:
		port.Port = new(intstr.FromInt32(int32(modelPorts[m.IntN(len(modelPorts))])))
	}
	return port
}

func (m *model) networkPolicy(name cluster.Name) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Meta: cluster.Meta{Name: name}}
	p.Spec.PodSelector = *m.selector()
	for range m.IntN(3) {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}[m.IntN(2)])
	}
	for range m.times() {
		var in networkingv1.NetworkPolicyIngressRule
		var out networkingv1.NetworkPolicyEgressRule
		for range m.times() {
			in.From, out.To = append(in.From, m.peer()), append(out.To, m.peer())
		}
		for range m.times() {
			in.Ports, out.Ports = append(in.Ports, m.port()), append(out.Ports, m.port())
		}
		if p.Spec.Ingress = append(p.Spec.Ingress, in); !m.one(3) {
			p.Spec.Egress = append(p.Spec.Egress, out)
		}
	}
	return p
}

func (m *model) clusterPods() (pods cluster.ClusterPolicyPods) {
	if m.one(2) {
		pods.Namespaces = m.selector()
	} else {
		pods.Pods = &cluster.NamespacedPods{NamespaceSelector: *m.selector(), PodSelector: *m.selector()}
	}
	return pods
}

func (m *model) clusterPeer(egress, accept bool) (peer cluster.ClusterPolicyPeer) {
	kind := 0
	if egress {
		kind = m.IntN(5)
	}
	switch {
	case kind == 1:
		peer.Nodes = m.selector()
	case kind == 2 || kind == 3:
		peer.Networks = []string{m.pick(modelNets), m.pick(modelNets)}
	case kind == 4 && accept:
		peer.DomainNames = []string{m.pick(modelDomains)}
	default:
		peer.ClusterPolicyPods = m.clusterPods()
	}
	return peer
}

func (m *model) clusterRule(egress bool) cluster.ClusterPolicyRule {
	rule := cluster.ClusterPolicyRule{Action: m.pick([]string{cluster.ClusterAccept, cluster.ClusterDeny, cluster.ClusterPass})}
	for range 1 + m.IntN(2) {
		peer := m.clusterPeer(egress, rule.Action == cluster.ClusterAccept)
		if egress {
			rule.To = append(rule.To, peer)
		} else {
			rule.From = append(rule.From, peer)
		}
	}
	for range m.times() {
		var protocol cluster.ClusterPolicyProtocol
		ports := &cluster.ClusterPolicyPorts{DestinationPort: &cluster.ClusterPolicyPort{Number: int32(modelPorts[m.IntN(len(modelPorts))])}}
		switch m.IntN(4) {
		case 0:
			protocol.TCP = ports
		case 1:
			protocol.UDP = ports
		case 2:
			protocol.SCTP = &cluster.ClusterPolicyPorts{}
		default:
			protocol.DestinationNamedPort = "http"
		}
		rule.Protocols = append(rule.Protocols, protocol)
	}
	return rule
}

func (m *model) clusterPolicy(name string) *cluster.ClusterNetworkPolicy {
	p := &cluster.ClusterNetworkPolicy{Meta: cluster.Meta{Name: cluster.Name{Name: name}}}
	p.Spec.Tier = m.pick([]string{cluster.TierAdmin, cluster.TierBaseline})
	p.Spec.Priority = int32(m.IntN(3))
	p.Spec.Subject = m.clusterPods()
	for range m.times() {
		p.Spec.Ingress = append(p.Spec.Ingress, m.clusterRule(false))
		p.Spec.Egress = append(p.Spec.Egress, m.clusterRule(true))
	}
	return p
}

func (m *model) expression() string {
	return m.pick([]string{"app == 'a'", "app != 'b'", "has(tier)", "tier in {'a', 'b'} && app != 'c'", "!has(app)", "all()"})
}

func (m *model) entity() (e cluster.CalicoEntity) {
	if m.one(2) {
		e.Nets = []string{m.pick(modelNets), m.pick(modelNets)}
	}
	if m.one(4) {
		e.NotNets = []string{m.pick(modelNets)}
	}
	if m.one(2) {
		e.Selector = m.expression()
	}
	if m.one(5) {
		e.NotSelector = m.expression()
	}
	if m.one(4) {
		e.NamespaceSelector = m.expression()
	}
	return e
}

func (m *model) calicoRule(ingress bool) cluster.CalicoRule {
	rule := cluster.CalicoRule{Action: m.pick([]string{cluster.CalicoAllow, cluster.CalicoAllow, cluster.CalicoDeny, cluster.CalicoPass, cluster.CalicoLog})}
	peer, own := m.entity(), cluster.CalicoEntity{}
	if m.one(5) {
		own.Selector = m.expression()
	}
	if rule.Source, rule.Destination = own, peer; ingress {
		rule.Source, rule.Destination = peer, own
	}
	if m.one(6) {
		rule.IPVersion = new([]int{4, 6}[m.IntN(2)])
	}
	switch m.IntN(5) {
	case 0:
	case 1:
		rule.NotProtocol = new(cluster.CalicoProtocol(cluster.TCP))
	case 2:
		rule.Protocol, rule.ICMP = new(cluster.CalicoProtocol(ICMP)), &cluster.CalicoICMP{Type: new(8)}
	default:
		rule.Protocol = new(cluster.CalicoProtocol([]cluster.Protocol{cluster.TCP, cluster.UDP}[m.IntN(2)]))
		first := modelPorts[m.IntN(len(modelPorts))]
		ports := []cluster.CalicoPort{{First: first, Last: first + uint16(m.IntN(int(65536-int(first))))}}
		switch m.IntN(4) {
		case 0:
			rule.Destination.NotPorts = ports
		case 1:
			rule.Destination.Ports = []cluster.CalicoPort{{Name: "http"}}
		default:
			rule.Destination.Ports = ports
		}
	}
	return rule
}

func (m *model) calicoPolicy(name cluster.Name) *cluster.CalicoPolicy {
	p := &cluster.CalicoPolicy{Meta: cluster.Meta{Name: name}, SortName: name.Name}
	p.Spec.Tier = m.pick([]string{"default", "default", "security"})
	if !m.one(3) {
		p.Spec.Order = new(float64(m.IntN(3) * 999))
	}
	p.Spec.Selector = m.expression()
	if p.Global() && m.one(2) {
		p.Spec.NamespaceSelector = m.expression()
	}
	p.Spec.Types = [][]string{{"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}[m.IntN(3)]
	for range m.times() {
		p.Spec.Ingress = append(p.Spec.Ingress, m.calicoRule(true))
		p.Spec.Egress = append(p.Spec.Egress, m.calicoRule(false))
	}
	return p
}

func (m *model) addrs(at int) []netip.Addr {
	list := []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(at)})}
	if at%5 == 0 {
		list[0] = netip.AddrFrom4([4]byte{10, 1, 2, byte(125 + at)})
	}
	if at%2 == 0 {
		list = append(list, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(at)}))
	}
	return list
}

var started = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func podName(at int) cluster.Name {
	return cluster.Name{Namespace: modelValues[at%len(modelValues)], Name: fmt.Sprintf("pod%d", at)}
}

func (m *model) pod(at int) *cluster.PolicyPod {
	pod := &cluster.PolicyPod{Name: podName(at), Node: "n1", Created: started, Labels: m.labels(), Phase: cluster.PodRunning, Addrs: m.addrs(at)}
	for _, name := range []string{"http", "dns"} {
		for range m.IntN(3) {
			pod.Ports = append(pod.Ports, cluster.NamedPort{Name: name, Protocol: []cluster.Protocol{cluster.TCP, cluster.UDP}[m.IntN(2)], Port: modelPorts[m.IntN(len(modelPorts))]})
		}
	}
	if at >= modelLocals {
		pod.HostNetwork = m.one(8)
		pod.Addrs = m.addrs(at + m.IntN(2)) // sometimes another's
		if m.one(8) {
			pod.Phase = cluster.PodSucceeded
		}
	}
	return pod
}

func (m *model) node(name string) *cluster.PolicyNode {
	at := byte(1 + slices.Index(modelNodes, name))
	return &cluster.PolicyNode{Name: name, Labels: m.labels(), Addrs: []netip.Addr{
		netip.AddrFrom4([4]byte{192, 168, byte(m.IntN(2)), at}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 15: at}),
	}}
}

func (m *model) dns() *cluster.EndpointSlice {
	slice := &cluster.EndpointSlice{Name: dnsService, Service: dnsService, Ports: []cluster.EndpointPort{
		{Name: "dns", Protocol: cluster.UDP, Port: []uint16{53, 1053}[m.IntN(2)]}, {Name: "dns-tcp", Protocol: cluster.TCP, Port: 53},
	}}
	for range 1 + m.IntN(2) {
		slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{Addr: m.addrs(m.IntN(9))[0], Ready: m.one(2)})
	}
	return slice
}

const modelKinds = 11

// step changes something; a name in domains says that its addresses have changed.
func (m *model) step(e *cluster.Edit) (domains []string) {
	name := cluster.Name{Namespace: m.pick(modelValues), Name: fmt.Sprintf("p%d", m.IntN(2))}
	gone := m.one(3)
	switch m.IntN(modelKinds) {
	case 0, 1:
		at := m.IntN(10)
		if gone && at >= modelLocals {
			e.DeletePolicyPod(podName(at))
		} else {
			e.PutPolicyPod(m.pod(at))
		}
	case 2:
		e.PutNamespace(name.Namespace)
		e.LabelNamespace(name.Namespace, m.labels())
	case 3, 4:
		if gone {
			e.DeleteNetworkPolicy(name)
		} else {
			e.PutNetworkPolicy(m.networkPolicy(name))
		}
	case 5:
		if gone {
			e.DeleteClusterNetworkPolicy(name.Name)
		} else {
			e.PutClusterNetworkPolicy(m.clusterPolicy(name.Name))
		}
	case 6:
		if m.one(3) {
			name.Namespace = ""
		}
		if gone {
			e.DeleteCalicoPolicy(name)
		} else {
			e.PutCalicoPolicy(m.calicoPolicy(name))
		}
	case 7:
		e.PutPolicyNode(m.node(m.pick(modelNodes)))
	case 8:
		if gone {
			e.DeleteCalicoTier("security")
		} else {
			tier := &cluster.CalicoTier{Meta: cluster.Meta{Name: cluster.Name{Name: "security"}}}
			tier.Spec.Order, tier.Spec.DefaultAction = new(float64(m.IntN(3)*900_000)), m.pick([]string{"", cluster.CalicoPass})
			e.PutCalicoTier(tier)
		}
	case 9:
		if gone {
			e.DeleteCalicoNetworkSet(name)
		} else {
			nets := []netip.Prefix{netip.MustParsePrefix(m.pick(modelNets))}
			e.PutCalicoNetworkSet(&cluster.CalicoNetworkSet{Meta: cluster.Meta{Name: name, Labels: m.labels()}, Nets: nets})
		}
	case 10:
		if m.one(2) {
			e.PutSlice(m.dns())
			break
		}
		domain := m.pick(modelDomains)
		addrs := []netip.Addr{m.addrs(m.IntN(9))[0], netip.MustParseAddr("203.0.113.7")}
		m.domains[domain] = addrs[:m.IntN(3)]
		domains = append(domains, domain)
	}
	return domains
}

// samples are addresses at which something may begin or end.
func (m *model) samples() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, text := range modelNets {
		net := netip.MustParsePrefix(text)
		first, last := net.Addr(), lastOf(net)
		for _, addr := range []netip.Addr{first.Prev(), first, last, last.Next()} {
			seen[addr] = addr.IsValid()
		}
	}
	for at := range 12 {
		for _, addr := range m.addrs(at) {
			seen[addr] = true
		}
	}
	for _, text := range []string{"203.0.113.7", "192.168.0.1", "192.168.1.1", "192.168.0.2", "fd01::1", "fd00:a::a", "10.1.2.7", "10.1.3.7", "8.8.8.8", "2001:db8::1"} {
		seen[netip.MustParseAddr(text)] = true
	}
	var list []netip.Addr
	for addr, ok := range seen {
		if ok && addr.IsValid() {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

func lastOf(net netip.Prefix) netip.Addr {
	bytes := net.Addr().AsSlice()
	for i := net.Bits(); i < 8*len(bytes); i++ {
		bytes[i/8] |= 1 << (7 - i%8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// points are some at which something may begin or end.
func (m *model) points() (list []uint32) {
	list = append(list, Point(ICMP, 8<<8), Point(ICMP, 0), Point(47, 0), Point(cluster.UDP, 53), Point(cluster.TCP, 53))
	for range 6 {
		protocol := []cluster.Protocol{cluster.TCP, cluster.UDP, cluster.SCTP}[m.IntN(3)]
		port := modelPorts[m.IntN(len(modelPorts))] + uint16(m.IntN(3)) - 1
		list = append(list, Point(protocol, port))
	}
	return list
}
