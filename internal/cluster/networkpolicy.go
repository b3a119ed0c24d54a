package cluster

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// A NetworkPolicy is a networking.k8s.io/v1 NetworkPolicy. It is immutable once it is in a Snapshot.
type NetworkPolicy struct {
	Meta // without labels and annotations
	// Spec has been checked: selectors and blocks can be read, ports are ports. Blocks and their exceptions are canonical: masked,
	// IPv4 ones that are written as mapped into IPv6 as such. A peer with nothing set is one of a kind that this version of the API
	// does not have.
	Spec networkingv1.NetworkPolicySpec
	// Refused says what is wrong with an object of which no good state is known, else it is empty: the policy isolates
	// whom it selects, and its Spec has no rules.
	Refused string
}

func (p *NetworkPolicy) equal(o *NetworkPolicy) bool {
	return p.Meta.equal(&o.Meta) && p.Refused == o.Refused && equality.Semantic.DeepEqual(&p.Spec, &o.Spec)
}

// Isolates says which directions of the selected pods the policy isolates: those of policyTypes, else ingress, and egress if
// there are rules for it.
func (p *NetworkPolicy) Isolates() (ingress, egress bool) {
	if len(p.Spec.PolicyTypes) == 0 {
		return true, len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress), slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

func policyMeta(in metav1.Object) Meta {
	return Meta{
		Name: Name{intern(in.GetNamespace()), in.GetName()}, UID: string(in.GetUID()), Created: in.GetCreationTimestamp().Time,
	}
}

// networkPolicyFrom converts a NetworkPolicy of the API, which it takes for its own. Errors name the object and the field. With an error there may still
// be a policy, with Refused: what is to be in force if no good state is known.
func networkPolicyFrom(in *networkingv1.NetworkPolicy) (*NetworkPolicy, error) {
	policy := &NetworkPolicy{Meta: policyMeta(in), Spec: in.Spec}
	err := policy.convert()
	if err == nil {
		return policy, nil
	}
	err = fmt.Errorf("convert NetworkPolicy %s: %w", policy.Name, err)
	if checkSelector("", &policy.Spec.PodSelector) != nil {
		return nil, err
	}
	return policy.isolating(err), err
}

// isolating is the policy without rules, for the directions that it would have isolated.
func (p *NetworkPolicy) isolating(err error) *NetworkPolicy {
	only := &NetworkPolicy{Meta: p.Meta, Refused: err.Error()}
	only.Spec.PodSelector = p.Spec.PodSelector
	types := slices.DeleteFunc(slices.Clone(p.Spec.PolicyTypes), func(t networkingv1.PolicyType) bool {
		return t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress
	})
	if len(types) == 0 { // none, or none that is known
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 || len(p.Spec.PolicyTypes) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	only.Spec.PolicyTypes = types
	return only
}

func (p *NetworkPolicy) convert() error {
	spec := &p.Spec
	if err := checkSelector("spec.podSelector", &spec.PodSelector); err != nil {
		return err
	}
	for i, t := range spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			return fmt.Errorf("spec.policyTypes[%d]: %q is no direction, write Ingress or Egress", i, t)
		}
	}
	for i := range spec.Ingress {
		rule, field := &spec.Ingress[i], fmt.Sprintf("spec.ingress[%d]", i)
		if err := convertRule(field+".from", rule.From, field+".ports", rule.Ports); err != nil {
			return err
		}
	}
	for i := range spec.Egress {
		rule, field := &spec.Egress[i], fmt.Sprintf("spec.egress[%d]", i)
		if err := convertRule(field+".to", rule.To, field+".ports", rule.Ports); err != nil {
			return err
		}
	}
	return nil
}

func convertRule(peersField string, peers []networkingv1.NetworkPolicyPeer, portsField string, ports []networkingv1.NetworkPolicyPort) error {
	for i := range peers {
		if err := convertPeer(fmt.Sprintf("%s[%d]", peersField, i), &peers[i]); err != nil {
			return err
		}
	}
	for i := range ports {
		if err := checkPolicyPort(fmt.Sprintf("%s[%d]", portsField, i), &ports[i]); err != nil {
			return err
		}
	}
	return nil
}

func convertPeer(field string, peer *networkingv1.NetworkPolicyPeer) error {
	if err := checkSelector(field+".podSelector", peer.PodSelector); err != nil {
		return err
	}
	if err := checkSelector(field+".namespaceSelector", peer.NamespaceSelector); err != nil {
		return err
	}
	block := peer.IPBlock
	if block == nil {
		return nil
	}
	if peer.PodSelector != nil || peer.NamespaceSelector != nil {
		return fmt.Errorf("%s: ipBlock beside a selector, write two peers", field)
	}
	cidr, err := canonicalPrefix(block.CIDR)
	if err != nil {
		return fmt.Errorf("%s.ipBlock.cidr: %w", field, err)
	}
	block.CIDR = cidr.String()
	for i, text := range block.Except {
		except, err := canonicalPrefix(text)
		if err != nil {
			return fmt.Errorf("%s.ipBlock.except[%d]: %w", field, i, err)
		}
		if except.Bits() < cidr.Bits() || !cidr.Contains(except.Addr()) {
			return fmt.Errorf("%s.ipBlock.except[%d]: %s is not within %s", field, i, except, cidr)
		}
		block.Except[i] = except.String()
	}
	return nil
}

func checkPolicyPort(field string, port *networkingv1.NetworkPolicyPort) error {
	if port.Protocol != nil {
		if _, err := protocol(*port.Protocol); err != nil {
			return fmt.Errorf("%s.protocol: %w", field, err)
		}
	}
	switch {
	case port.Port == nil:
		if port.EndPort != nil {
			return fmt.Errorf("%s.endPort: %d without port, write the first port, too", field, *port.EndPort)
		}
	case port.Port.Type == intstr.String:
		if faults := validation.IsValidPortName(port.Port.StrVal); len(faults) > 0 {
			return fmt.Errorf("%s.port: %q is no port's name: %s", field, port.Port.StrVal, faults[0])
		}
		if port.EndPort != nil {
			return fmt.Errorf("%s.endPort: %d beside the name %q, write the first port as a number", field, *port.EndPort, port.Port.StrVal)
		}
	case port.Port.IntVal < 1 || port.Port.IntVal > 65535:
		return fmt.Errorf("%s.port: %d is not a port, write 1 to 65535", field, port.Port.IntVal)
	case port.EndPort != nil && (*port.EndPort < port.Port.IntVal || *port.EndPort > 65535):
		return fmt.Errorf("%s.endPort: %d, write %d to 65535", field, *port.EndPort, port.Port.IntVal)
	}
	return nil
}

// checkSelector takes nil for good.
func checkSelector(field string, selector *metav1.LabelSelector) error {
	if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// canonicalPrefix is parsePrefix that takes ranges of mapped addresses for what they stand for.
func canonicalPrefix(text string) (netip.Prefix, error) {
	prefix, err := parsePrefix(text)
	if err == nil && prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix, err
}

// NetworkPolicy returns the NetworkPolicy of that name, nil when there is none or policies are not read.
func (s *Snapshot) NetworkPolicy(name Name) *NetworkPolicy {
	policy, _ := s.networkPolicies.get(name)
	return policy
}

// NetworkPolicies yields every NetworkPolicy, in no particular order.
func (s *Snapshot) NetworkPolicies() iter.Seq[*NetworkPolicy] { return values(s.networkPolicies) }

// PutNetworkPolicy adds a NetworkPolicy or replaces the one of that name.
func (e *Edit) PutNetworkPolicy(policy *NetworkPolicy) {
	putObject(e, &e.next.networkPolicies, NetworkPolicies, policy)
}

// DeleteNetworkPolicy removes a NetworkPolicy.
func (e *Edit) DeleteNetworkPolicy(name Name) {
	deleteObject(e, &e.next.networkPolicies, NetworkPolicies, name)
}
