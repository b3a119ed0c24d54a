package cluster

import (
	"errors"
	"fmt"
	"regexp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The tiers of a ClusterNetworkPolicy.
const (
	TierAdmin    = "Admin"
	TierBaseline = "Baseline"
)

// The actions of the rules of a ClusterNetworkPolicy.
const (
	ClusterAccept = "Accept"
	ClusterDeny   = "Deny"
	ClusterPass   = "Pass"
)

const (
	maxClusterItems    = 25 // rules of a direction, peers and protocols of a rule, networks and names of a peer
	maxClusterPriority = 1000
)

// A ClusterNetworkPolicy is a policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy, as its API's release 0.2 has it,
// checked. It is immutable once it is in a Snapshot.
type ClusterNetworkPolicy struct {
	Meta
	Spec ClusterNetworkPolicySpec
	// Refused says what is wrong with an object of which no good version is known. Its rules are what is left by the API's
	// rule for peers that are not understood: those that accept are gone, those that deny or pass deny everything.
	Refused string
}

// A ClusterNetworkPolicySpec is the spec of a ClusterNetworkPolicy.
type ClusterNetworkPolicySpec struct {
	Tier     string            `json:"tier"`
	Priority int32             `json:"priority"` // lower goes first
	Subject  ClusterPolicyPods `json:"subject"`
	// Ingress and Egress are tried in their order.
	Ingress []ClusterPolicyRule `json:"ingress,omitempty"`
	Egress  []ClusterPolicyRule `json:"egress,omitempty"`
}

// ClusterPolicyPods are pods: all of some namespaces, or some of some namespaces. One of the two is set.
type ClusterPolicyPods struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
}

// NamespacedPods are the pods with some labels of the namespaces with some labels.
type NamespacedPods struct {
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	PodSelector       metav1.LabelSelector `json:"podSelector"`
}

// A ClusterPolicyRule is a rule of either direction: an ingress rule has From, an egress rule has To.
type ClusterPolicyRule struct {
	Name   string              `json:"name,omitempty"`
	Action string              `json:"action"`
	From   []ClusterPolicyPeer `json:"from,omitempty"`
	To     []ClusterPolicyPeer `json:"to,omitempty"`
	// Protocols are all there are when empty.
	Protocols []ClusterPolicyProtocol `json:"protocols,omitempty"`
}

// A ClusterPolicyPeer has one field set. None means that the object has one that is not known here: its rule matches
// nothing when it accepts, and denies everything otherwise.
type ClusterPolicyPeer struct {
	ClusterPolicyPods `json:",inline"`
	// The others are of egress only.
	Nodes       *metav1.LabelSelector `json:"nodes,omitempty"`
	Networks    []string              `json:"networks,omitempty"` // canonical, as blocks of a NetworkPolicy
	DomainNames []string              `json:"domainNames,omitempty"`
}

// Known is whether a field is set that is known here.
func (p *ClusterPolicyPeer) Known() bool { return p.fields() > 0 }

func (p *ClusterPolicyPeer) fields() int {
	return count(p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, p.Networks != nil, p.DomainNames != nil)
}

// A ClusterPolicyProtocol has one field set. A protocol without port means all its ports.
type ClusterPolicyProtocol struct {
	TCP                  *ClusterPolicyPorts `json:"tcp,omitempty"`
	UDP                  *ClusterPolicyPorts `json:"udp,omitempty"`
	SCTP                 *ClusterPolicyPorts `json:"sctp,omitempty"`
	DestinationNamedPort string              `json:"destinationNamedPort,omitempty"`
}

// ClusterPolicyPorts are the ports of one protocol.
type ClusterPolicyPorts struct {
	DestinationPort *ClusterPolicyPort `json:"destinationPort,omitempty"`
}

// A ClusterPolicyPort is a number or a range, both ends of which are meant.
type ClusterPolicyPort struct {
	Number int32 `json:"number,omitempty"`
	Range  *struct {
		Start int32 `json:"start"`
		End   int32 `json:"end"`
	} `json:"range,omitempty"`
}

// Bounds returns the first and the last port that is meant.
func (p *ClusterPolicyPort) Bounds() (first, last uint16) {
	if p.Range != nil {
		return uint16(p.Range.Start), uint16(p.Range.End)
	}
	return uint16(p.Number), uint16(p.Number)
}

type clusterNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ClusterNetworkPolicySpec `json:"spec"`
	Status            map[string]any           `json:"status,omitempty"`
}

// clusterNetworkPolicyFrom converts a ClusterNetworkPolicy. Errors name the object, the field, its value and what would be
// right; with an error comes what to enforce when no good version is known, or nil when not even the subject can be read.
func clusterNetworkPolicyFrom(in *clusterNetworkPolicy) (*ClusterNetworkPolicy, error) {
	policy := &ClusterNetworkPolicy{Meta: metaFrom(in), Spec: in.Spec}
	head := policy.checkHead()
	if head != nil {
		return nil, fmt.Errorf("convert ClusterNetworkPolicy %s: %w", in.Name, head)
	}
	rules := errors.Join(
		checkClusterRules("spec.ingress", policy.Spec.Ingress, false),
		checkClusterRules("spec.egress", policy.Spec.Egress, true),
	)
	policy.canonicalize()
	if rules == nil {
		return policy, nil
	}
	policy.Refused = rules.Error()
	policy.Spec.Ingress = closedRules("spec.ingress", policy.Spec.Ingress, false)
	policy.Spec.Egress = closedRules("spec.egress", policy.Spec.Egress, true)
	return policy, fmt.Errorf("convert ClusterNetworkPolicy %s: %w", in.Name, rules)
}

// canonicalize writes networks as they are compared: without bits behind the prefix, and never of v4-mapped addresses.
func (p *ClusterNetworkPolicy) canonicalize() {
	for i := range p.Spec.Egress {
		for j := range p.Spec.Egress[i].To {
			networks := p.Spec.Egress[i].To[j].Networks
			for k, text := range networks {
				if prefix, err := canonicalPrefix(text); err == nil {
					networks[k] = prefix.String()
				}
			}
		}
	}
}

// checkHead checks what is needed to know whom the policy is about, and when.
func (p *ClusterNetworkPolicy) checkHead() error {
	s := &p.Spec
	if s.Tier != TierAdmin && s.Tier != TierBaseline {
		return fmt.Errorf("spec.tier: %q: write %s or %s", s.Tier, TierAdmin, TierBaseline)
	}
	if s.Priority < 0 || s.Priority > maxClusterPriority {
		return fmt.Errorf("spec.priority: %d: write a number from 0 to %d", s.Priority, maxClusterPriority)
	}
	if count(s.Subject.Namespaces != nil, s.Subject.Pods != nil) != 1 {
		return errors.New("spec.subject: write exactly one of namespaces and pods")
	}
	return checkClusterPods("spec.subject", &s.Subject)
}

// closedRules replaces the rules that are not understood, as the API asks for peers that are not known.
func closedRules(field string, in []ClusterPolicyRule, egress bool) []ClusterPolicyRule {
	var out []ClusterPolicyRule
	for i := range in {
		switch rule := in[i]; {
		case checkClusterRule(fmt.Sprintf("%s[%d]", field, i), &rule, egress) == nil:
			out = append(out, rule)
		case rule.Action != ClusterAccept:
			closed := ClusterPolicyRule{Name: rule.Name, Action: ClusterDeny}
			if egress {
				closed.To = []ClusterPolicyPeer{{}}
			} else {
				closed.From = []ClusterPolicyPeer{{}}
			}
			out = append(out, closed)
		}
	}
	return out
}

func checkClusterRules(field string, rules []ClusterPolicyRule, egress bool) error {
	if len(rules) > maxClusterItems {
		return fmt.Errorf("%s: %d rules: write at most %d, and the others into another object of the next priority", field, len(rules), maxClusterItems)
	}
	var faults []error
	for i := range rules {
		faults = append(faults, checkClusterRule(fmt.Sprintf("%s[%d]", field, i), &rules[i], egress))
	}
	return errors.Join(faults...)
}

func checkClusterRule(field string, rule *ClusterPolicyRule, egress bool) error {
	switch rule.Action {
	case ClusterAccept, ClusterDeny, ClusterPass:
	default:
		return fmt.Errorf("%s.action: %q: write %s, %s or %s", field, rule.Action, ClusterAccept, ClusterDeny, ClusterPass)
	}
	peers, wrong, name, other := rule.From, rule.To, ".from", ".to"
	if egress {
		peers, wrong, name, other = rule.To, rule.From, ".to", ".from"
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s%s: is not of this direction: write %s", field, other, name[1:])
	}
	if len(peers) == 0 || len(peers) > maxClusterItems {
		return fmt.Errorf("%s%s: %d peers: write 1 to %d", field, name, len(peers), maxClusterItems)
	}
	for i := range peers {
		if err := checkClusterPeer(fmt.Sprintf("%s%s[%d]", field, name, i), &peers[i], rule.Action, egress); err != nil {
			return err
		}
	}
	return checkClusterProtocols(field+".protocols", rule.Protocols, peers)
}

func checkClusterPeer(field string, peer *ClusterPolicyPeer, action string, egress bool) error {
	if n := peer.fields(); n > 1 {
		return fmt.Errorf("%s: %d fields are set: write each into a peer of its own", field, n)
	}
	if !egress && (peer.Nodes != nil || peer.Networks != nil || peer.DomainNames != nil) {
		return fmt.Errorf("%s: nodes, networks and domainNames are of egress only: write namespaces or pods", field)
	}
	if peer.DomainNames != nil && action != ClusterAccept {
		return fmt.Errorf("%s.domainNames: the action is %s: domain names are for %s only; deny networks after it", field, action, ClusterAccept)
	}
	if err := checkClusterPods(field, &peer.ClusterPolicyPods); err != nil {
		return err
	}
	if err := checkSelector(field+".nodes", peer.Nodes); err != nil {
		return err
	}
	if err := checkList(field+".networks", peer.Networks, checkNetwork); err != nil {
		return err
	}
	for i, text := range peer.Networks {
		if prefix, err := canonicalPrefix(text); err == nil {
			peer.Networks[i] = prefix.String()
		}
	}
	return checkList(field+".domainNames", peer.DomainNames, checkDomain)
}

func checkClusterPods(field string, pods *ClusterPolicyPods) error {
	if err := checkSelector(field+".namespaces", pods.Namespaces); err != nil || pods.Pods == nil {
		return err
	}
	if err := checkSelector(field+".pods.namespaceSelector", &pods.Pods.NamespaceSelector); err != nil {
		return err
	}
	return checkSelector(field+".pods.podSelector", &pods.Pods.PodSelector)
}

func checkList(field string, list []string, check func(string) error) error {
	if list != nil && len(list) == 0 || len(list) > maxClusterItems {
		return fmt.Errorf("%s: %d items: write 1 to %d", field, len(list), maxClusterItems)
	}
	for i, item := range list {
		if err := check(item); err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
	}
	return nil
}

func checkNetwork(text string) error {
	if _, err := canonicalPrefix(text); err != nil {
		return fmt.Errorf("%q is not a CIDR: write one like 10.0.0.0/8 or fd00::/8", text)
	}
	return nil
}

// domainName is the API's pattern, with the ranges that it means.
var domainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

func checkDomain(text string) error {
	if !domainName.MatchString(text) {
		return fmt.Errorf("%q is not a domain name: write one like example.com or *.example.com", text)
	}
	return nil
}

func checkClusterProtocols(field string, protocols []ClusterPolicyProtocol, peers []ClusterPolicyPeer) error {
	if len(protocols) > maxClusterItems {
		return fmt.Errorf("%s: %d items: write at most %d", field, len(protocols), maxClusterItems)
	}
	for i := range protocols {
		if err := checkClusterProtocol(fmt.Sprintf("%s[%d]", field, i), &protocols[i], peers); err != nil {
			return err
		}
	}
	return nil
}

func checkClusterProtocol(field string, p *ClusterPolicyProtocol, peers []ClusterPolicyPeer) error {
	if count(p.TCP != nil, p.UDP != nil, p.SCTP != nil, p.DestinationNamedPort != "") != 1 {
		return fmt.Errorf("%s: write exactly one of tcp, udp, sctp and destinationNamedPort", field)
	}
	for name, ports := range map[string]*ClusterPolicyPorts{"tcp": p.TCP, "udp": p.UDP, "sctp": p.SCTP} {
		if ports == nil || ports.DestinationPort == nil {
			continue
		}
		if err := checkClusterPort(field+"."+name+".destinationPort", ports.DestinationPort); err != nil {
			return err
		}
	}
	for j := range peers {
		if peer := &peers[j]; p.DestinationNamedPort != "" && (peer.Nodes != nil || peer.Networks != nil || peer.DomainNames != nil) {
			return fmt.Errorf("%s.destinationNamedPort: %q: nodes, networks and domain names have no named ports: write the number, or another rule for pods",
				field, p.DestinationNamedPort)
		}
	}
	return nil
}

func checkClusterPort(field string, port *ClusterPolicyPort) error {
	if count(port.Number != 0, port.Range != nil) != 1 {
		return fmt.Errorf("%s: write exactly one of number and range", field)
	}
	if r := port.Range; r != nil {
		if r.Start < 1 || r.End > 65535 || r.Start >= r.End {
			return fmt.Errorf("%s.range: %d to %d: write ports from 1 to 65535, the start below the end", field, r.Start, r.End)
		}
	} else if port.Number < 1 || port.Number > 65535 {
		return fmt.Errorf("%s.number: %d is not a port: write 1 to 65535", field, port.Number)
	}
	return nil
}

func count(facts ...bool) int {
	n := 0
	for _, fact := range facts {
		if fact {
			n++
		}
	}
	return n
}
