package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/bench/site"
	"github.com/nearpath/nearpath/internal/cluster"
)

// Where things are, in every site.
var (
	beyond = netip.MustParsePrefix("10.92.0.0/24")
	// answers is the server's, and dark an address that it drops all packets to.
	answers = netip.MustParseAddr("10.92.0.1")
	dark    = netip.MustParseAddr("10.92.0.99")
	plan    = site.Plan{Served: []netip.Addr{answers}, Beyond: beyond}

	localPods = netip.MustParsePrefix("10.91.0.0/16") // but for the one of the site
	otherPods = netip.MustParsePrefix("10.100.0.0/14")
	epoch     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

const namespace = "bench"

// nth is the n-th address of a network.
func nth(network netip.Prefix, n int) netip.Addr {
	b := network.Addr().As4()
	n += int(b[2])<<8 | int(b[3])
	return netip.AddrFrom4([4]byte{b[0], b[1] + byte(n>>16), byte(n >> 8), byte(n)})
}

// perPod is how many policies select one pod.
const perPod = 10

// A scene is policies that isolate pods of the node in both directions. Each has peers of its own, which are pods elsewhere, and
// perPod of them select the same pod; the first ones select the site's. The server is a peer of the one in the middle of these.
type scene struct {
	Policies int `json:"policies"`
	Peers    int `json:"peers"` // of each
}

func (s scene) middle() int { return min(s.Policies, perPod) / 2 }

// pods are those of the node.
func (s scene) pods() (addrs []netip.Addr) {
	addrs = []netip.Addr{site.Pod}
	for i := 1; i*perPod < s.Policies; i++ {
		addrs = append(addrs, nth(localPods, i))
	}
	return addrs
}

// peers are those of a policy.
func (s scene) peers(policy int) (addrs []netip.Addr) {
	for i := range s.Peers {
		addrs = append(addrs, nth(otherPods, policy*s.Peers+i))
	}
	if policy == s.middle() {
		addrs[s.Peers/2], addrs[s.Peers/2+1] = answers, dark
	}
	return addrs
}

func podName(i int) cluster.Name {
	return cluster.Name{Namespace: namespace, Name: fmt.Sprintf("pod-%d", i)}
}

// put adds all of it.
func (s scene) put(e *cluster.Edit) {
	e.PutNamespace(namespace)
	for i, addr := range s.pods() {
		e.PutPolicyPod(&cluster.PolicyPod{
			Name: podName(i), Local: true, Created: epoch, Phase: cluster.PodRunning, Addrs: []netip.Addr{addr}, Labels: map[string]string{"pod": strconv.Itoa(i)},
		})
	}
	for p := range s.Policies {
		labels := map[string]string{"peer-of": strconv.Itoa(p)}
		for i, addr := range s.peers(p) {
			e.PutPolicyPod(&cluster.PolicyPod{
				Name:    cluster.Name{Namespace: namespace, Name: fmt.Sprintf("peer-%d-%d", p, i)},
				Created: epoch, Phase: cluster.PodRunning, Addrs: []netip.Addr{addr}, Labels: labels,
			})
		}
		peers := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: labels}}}
		e.PutNetworkPolicy(&cluster.NetworkPolicy{
			Meta: cluster.Meta{Name: cluster.Name{Namespace: namespace, Name: fmt.Sprintf("policy-%d", p)}},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"pod": strconv.Itoa(p / perPod)}},
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
				Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: peers}},
				Egress:      []networkingv1.NetworkPolicyEgressRule{{To: peers}},
			},
		})
	}
}

// A side is a direction of pods to nftables: which address of a packet is the pod's, and which its peer's.
type side struct{ name, of, peer string }

// rules are the same for nftables: established connections first, then by one lookup to the chains of the pod, which go through
// the sets of its policies.
func (s scene) rules() string {
	var out strings.Builder
	out.WriteString("table ip filtering\ndelete table ip filtering\ntable ip filtering {\n")
	sides := []side{{"out", "saddr", "daddr"}, {"in", "daddr", "saddr"}}
	for p := range s.Policies {
		s.policyRules(&out, p, sides)
	}
	pods := s.pods()
	if s.Policies == 0 {
		pods = nil
	}
	for i := range pods {
		for _, side := range sides {
			s.podRules(&out, i, side)
		}
	}
	for _, side := range sides {
		var elements []string
		for i, addr := range pods {
			elements = append(elements, fmt.Sprintf("%s : jump pod-%d-%s", addr, i, side.name))
		}
		fmt.Fprintf(&out, "map pods-%s { type ipv4_addr : verdict;", side.name)
		if len(elements) > 0 {
			fmt.Fprintf(&out, " elements = { %s }", strings.Join(elements, ", "))
		}
		out.WriteString(" }\n")
	}
	out.WriteString("chain forward {\ntype filter hook forward priority filter; policy accept;\nct state established,related accept\n")
	for _, side := range sides {
		fmt.Fprintf(&out, "ip %s vmap @pods-%s\n", side.of, side.name)
	}
	out.WriteString("}\n}\n")
	return out.String()
}

// policyRules writes the set of a policy's peers, and a chain for each side.
func (s scene) policyRules(out *strings.Builder, p int, sides []side) {
	texts := make([]string, 0, s.Peers)
	for _, addr := range s.peers(p) {
		texts = append(texts, addr.String())
	}
	fmt.Fprintf(out, "set peers-%d { type ipv4_addr; elements = { %s } }\n", p, strings.Join(texts, ", "))
	for _, side := range sides {
		fmt.Fprintf(out, "chain policy-%d-%s { ip %s @peers-%d accept; }\n", p, side.name, side.peer, p)
	}
}

// podRules writes the chain of a pod's side.
func (s scene) podRules(out *strings.Builder, pod int, side side) {
	fmt.Fprintf(out, "chain pod-%d-%s {\n", pod, side.name)
	for p := pod * perPod; p < min((pod+1)*perPod, s.Policies); p++ {
		fmt.Fprintf(out, "jump policy-%d-%s\n", p, side.name)
	}
	out.WriteString("drop\n}\n")
}
