package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/internal/labelexpr"
)

// The actions of Calico's rules. A rule that logs decides nothing.
const (
	CalicoAllow = "Allow"
	CalicoDeny  = "Deny"
	CalicoPass  = "Pass"
	CalicoLog   = "Log"
)

// The types of Calico's policies.
const (
	CalicoIngress = "Ingress"
	CalicoEgress  = "Egress"
)

// The tiers that Calico has without a Tier object, and their orders (api/pkg/apis/projectcalico/v3/tier.go). The
// NetworkPolicies of Kubernetes are policies of the default tier, of the order CalicoKubernetesOrder; ClusterNetworkPolicies
// make the other two.
const (
	CalicoDefaultTier  = "default"
	CalicoAdminTier    = "kube-admin"
	CalicoBaselineTier = "kube-baseline"

	CalicoAdminTierOrder    = 1e3
	CalicoDefaultTierOrder  = 1e6
	CalicoBaselineTierOrder = 1e7
	CalicoKubernetesOrder   = 1e3
)

// calicoMetadata is the annotation in which Calico keeps the metadata of its objects in the Kubernetes API.
const calicoMetadata = "projectcalico.org/metadata"

// A CalicoPolicy is a crd.projectcalico.org/v1 NetworkPolicy or, without a namespace, GlobalNetworkPolicy, checked. It is
// immutable once it is in a Snapshot.
type CalicoPolicy struct {
	Meta
	// SortName decides among policies of the same order: Calico's name of the object, which its CRD's name may precede with
	// the tier.
	SortName string
	Spec     CalicoPolicySpec
	// Refused says what is wrong with an object of which no good version is known. It has no rules then, so that it
	// allows nothing to the pods that it selects.
	Refused string
}

// Global is whether it is a GlobalNetworkPolicy.
func (p *CalicoPolicy) Global() bool { return p.Name.Namespace == "" }

// A CalicoPolicySpec is the spec of either kind of policy. Tier and Types have been filled in.
type CalicoPolicySpec struct {
	Tier                   string       `json:"tier,omitempty"`
	Order                  *float64     `json:"order,omitempty"` // lower goes first, none last
	Ingress                []CalicoRule `json:"ingress,omitempty"`
	Egress                 []CalicoRule `json:"egress,omitempty"`
	Selector               string       `json:"selector,omitempty"`
	Types                  []string     `json:"types,omitempty"`
	NamespaceSelector      string       `json:"namespaceSelector,omitempty"` // of a GlobalNetworkPolicy only
	ServiceAccountSelector string       `json:"serviceAccountSelector,omitempty"`
	DoNotTrack             bool         `json:"doNotTrack,omitempty"`
	PreDNAT                bool         `json:"preDNAT,omitempty"`
	ApplyOnForward         bool         `json:"applyOnForward,omitempty"`
	PerformanceHints       []string     `json:"performanceHints,omitempty"` // change nothing
}

// A CalicoRule matches a packet that all its fields match.
type CalicoRule struct {
	Action      string          `json:"action"`
	IPVersion   *int            `json:"ipVersion,omitempty"`
	Protocol    *CalicoProtocol `json:"protocol,omitempty"`
	ICMP        *CalicoICMP     `json:"icmp,omitempty"`
	NotProtocol *CalicoProtocol `json:"notProtocol,omitempty"`
	NotICMP     *CalicoICMP     `json:"notICMP,omitempty"`
	Source      CalicoEntity    `json:"source,omitzero"`
	Destination CalicoEntity    `json:"destination,omitzero"`
	HTTP        json.RawMessage `json:"http,omitempty"`
	Metadata    json.RawMessage `json:"metadata,omitempty"` // annotations, which mean nothing
	// Unread says what of the rule cannot be read, empty for nothing. The rest of it means nothing then.
	Unread string `json:"-"`
}

// UnmarshalJSON implements json.Unmarshaler. It never fails, so that whom the policy selects can be read still. A field that
// is not known may be one more condition, so it is not passed over.
func (r *CalicoRule) UnmarshalJSON(in []byte) error {
	type plain CalicoRule
	strict := json.NewDecoder(bytes.NewReader(in))
	strict.DisallowUnknownFields()
	var rule plain
	if err := strict.Decode(&rule); err != nil {
		rule = plain{Unread: strings.TrimPrefix(err.Error(), "json: ")}
	}
	*r = CalicoRule(rule)
	return nil
}

// A CalicoICMP is a type of messages, or one code of it. Without either it is any message.
type CalicoICMP struct {
	Type *int `json:"type,omitempty"`
	Code *int `json:"code,omitempty"`
}

// A CalicoEntity is one end of what a rule matches.
type CalicoEntity struct {
	Nets              []string               `json:"nets,omitempty"`
	Selector          string                 `json:"selector,omitempty"`
	NamespaceSelector string                 `json:"namespaceSelector,omitempty"`
	Services          json.RawMessage        `json:"services,omitempty"`
	Ports             []CalicoPort           `json:"ports,omitempty"`
	Domains           []string               `json:"domains,omitempty"` // of Calico Enterprise
	NotNets           []string               `json:"notNets,omitempty"`
	NotSelector       string                 `json:"notSelector,omitempty"`
	NotPorts          []CalicoPort           `json:"notPorts,omitempty"`
	ServiceAccounts   *CalicoServiceAccounts `json:"serviceAccounts,omitempty"`
}

// CalicoServiceAccounts are service accounts of pods.
type CalicoServiceAccounts struct {
	Names    []string `json:"names,omitempty"`
	Selector string   `json:"selector,omitempty"`
}

// A CalicoProtocol is the number of an IP protocol, written as a number or as a name.
type CalicoProtocol uint8

// protocolNames are all that Calico takes.
var protocolNames = map[string]CalicoProtocol{"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}

// UnmarshalJSON implements json.Unmarshaler.
func (p *CalicoProtocol) UnmarshalJSON(in []byte) error {
	text, err := numberOrString(in)
	if err != nil {
		return err
	}
	for name, number := range protocolNames {
		if strings.EqualFold(name, text) {
			*p = number
			return nil
		}
	}
	number, err := strconv.ParseUint(text, 10, 8)
	if err != nil || number == 0 {
		return fmt.Errorf("protocol: %q: write a number from 1 to 255 or one of TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite", text)
	}
	*p = CalicoProtocol(number)
	return nil
}

// HasPorts is whether rules may match ports of the protocol.
func (p CalicoProtocol) HasPorts() bool { return p == 6 || p == 17 || p == 132 }

// IsICMP is whether rules may match types of messages of the protocol.
func (p CalicoProtocol) IsICMP() bool { return p == 1 || p == 58 }

// A CalicoPort is a range of ports, both ends of which are meant, or the name of a port of pods.
type CalicoPort struct {
	First, Last uint16
	Name        string
}

// UnmarshalJSON implements json.Unmarshaler. A range is written "1000:2000".
func (p *CalicoPort) UnmarshalJSON(in []byte) error {
	text, err := numberOrString(in)
	if err != nil {
		return err
	}
	low, high, isRange := strings.Cut(text, ":")
	if !isRange {
		high = low
	}
	first, errFirst := strconv.ParseUint(low, 10, 16)
	last, errLast := strconv.ParseUint(high, 10, 16)
	switch {
	case errFirst == nil && errLast == nil && first <= last:
		*p = CalicoPort{First: uint16(first), Last: uint16(last)}
	case isPortName(text):
		*p = CalicoPort{Name: text}
	default:
		return fmt.Errorf("port: %q: write a port, a range like 1000:2000 or the name of a port", text)
	}
	return nil
}

// isPortName is what Calico takes for one, which is never only digits.
func isPortName(text string) bool {
	if len(text) < 1 || len(text) > 128 || strings.Trim(text, "0123456789") == "" {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	})
}

func numberOrString(in []byte) (string, error) {
	if len(in) > 0 && in[0] == '"' {
		var text string
		err := json.Unmarshal(in, &text)
		return text, err
	}
	return string(in), nil
}

// A CalicoTier is a crd.projectcalico.org/v1 Tier: policies that go together, before or after those of other tiers.
type CalicoTier struct {
	Meta
	Spec CalicoTierSpec
}

// A CalicoTierSpec is the spec of a Tier.
type CalicoTierSpec struct {
	Order *float64 `json:"order,omitempty"` // lower goes first, none last
	// DefaultAction is what becomes of packets of a pod that policies of the tier select when no rule decides: CalicoDeny,
	// as when empty, or CalicoPass.
	DefaultAction string `json:"defaultAction,omitempty"`
}

// A CalicoNetworkSet is a crd.projectcalico.org/v1 NetworkSet or, without a namespace, GlobalNetworkSet: networks that the
// selectors of rules find by labels.
type CalicoNetworkSet struct {
	Meta
	Nets []netip.Prefix // canonical
}

type (
	calicoPolicy struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              CalicoPolicySpec `json:"spec"`
	}
	calicoTier struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              CalicoTierSpec `json:"spec"`
		Status            map[string]any `json:"status,omitempty"`
	}
	calicoNetworkSet struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Nets []string `json:"nets,omitempty"`
		} `json:"spec"`
	}
)

// calicoPolicyFrom converts a policy. Errors name the object, the field, its value and what would be right; with an error
// comes what to enforce when no good version is known, or nil when it cannot be read whom the policy selects, or it is
// about no pod.
func calicoPolicyFrom(in *calicoPolicy) (*CalicoPolicy, error) {
	policy := &CalicoPolicy{Meta: metaFrom(in), Spec: in.Spec}
	stored, err := storedMetadata(in)
	if err == nil {
		policy.complete(stored)
		err = policy.checkHead()
	}
	if err != nil {
		return nil, fmt.Errorf("convert %s %s: %w", policy.kind(), policy.title(), err)
	}
	if err := policy.checkRules(); err != nil {
		policy.Refused = err.Error()
		policy.Spec.Ingress, policy.Spec.Egress = nil, nil
		return policy, fmt.Errorf("convert %s %s: %w", policy.kind(), policy.title(), err)
	}
	return policy, nil
}

// title is the name for people.
func (m *Meta) title() string { return strings.TrimPrefix(m.Name.String(), "/") }

func (p *CalicoPolicy) kind() string {
	if p.Global() {
		return "GlobalNetworkPolicy"
	}
	return "NetworkPolicy (crd.projectcalico.org)"
}

// complete fills in what may be left out, as Calico's API does.
func (p *CalicoPolicy) complete(stored *metav1.ObjectMeta) {
	if p.Spec.Tier == "" {
		p.Spec.Tier = CalicoDefaultTier
	}
	p.SortName = stored.Name
	if p.SortName == "" {
		p.SortName = p.Name.Name
		if p.Spec.Tier == CalicoDefaultTier {
			p.SortName = strings.TrimPrefix(p.SortName, CalicoDefaultTier+".")
		}
	}
	if len(p.Spec.Types) == 0 {
		p.Spec.Types = []string{CalicoIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.Types = []string{CalicoIngress, CalicoEgress}
			if len(p.Spec.Ingress) == 0 {
				p.Spec.Types = []string{CalicoEgress}
			}
		}
	}
}

// HasType is whether the policy is about a direction, CalicoIngress or CalicoEgress.
func (p *CalicoPolicy) HasType(direction string) bool {
	return slices.Contains(p.Spec.Types, direction)
}

// storedMetadata reads what Calico keeps of an object's metadata in an annotation; empty when there is none.
func storedMetadata(in metav1.Object) (*metav1.ObjectMeta, error) {
	var stored metav1.ObjectMeta
	text, ok := in.GetAnnotations()[calicoMetadata]
	if !ok {
		return &stored, nil
	}
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return nil, fmt.Errorf("metadata.annotations[%s]: %w", calicoMetadata, err)
	}
	return &stored, nil
}

// calicoTierFrom converts a Tier. Errors name the object and the field.
func calicoTierFrom(in *calicoTier) (*CalicoTier, error) {
	tier := &CalicoTier{Meta: metaFrom(in), Spec: in.Spec}
	switch tier.Spec.DefaultAction {
	case "", CalicoDeny, CalicoPass:
		return tier, nil
	}
	return nil, fmt.Errorf("convert Tier %s: spec.defaultAction: %q: write %s or %s", in.Name, tier.Spec.DefaultAction, CalicoDeny, CalicoPass)
}

// calicoNetworkSetFrom converts a NetworkSet or a GlobalNetworkSet. Errors name the object and the field.
func calicoNetworkSetFrom(in *calicoNetworkSet) (*CalicoNetworkSet, error) {
	set := &CalicoNetworkSet{Meta: metaFrom(in)}
	stored, err := storedMetadata(in)
	if err == nil {
		set.Labels = mergeLabels(set.Labels, stored.Labels)
		set.Nets, err = calicoNets("spec.nets", in.Spec.Nets)
	}
	if err != nil {
		return nil, fmt.Errorf("convert NetworkSet %s: %w", set.title(), err)
	}
	return set, nil
}

func mergeLabels(labels, stored map[string]string) map[string]string {
	if len(stored) == 0 {
		return labels
	}
	merged := make(map[string]string, len(labels)+len(stored))
	maps.Copy(merged, labels)
	maps.Copy(merged, stored)
	return internMap(merged, func(string) bool { return true })
}

func calicoNets(field string, texts []string) ([]netip.Prefix, error) {
	nets := make([]netip.Prefix, 0, len(texts))
	for i, text := range texts {
		net, err := ParseCalicoNet(text)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		nets = append(nets, net)
	}
	return nets, nil
}

// ParseCalicoNet reads a network, or an address for that address alone. The result is canonical, and never of v4-mapped
// addresses.
func ParseCalicoNet(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	net, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network: write one like 10.0.0.0/8 or fd00::/8", text)
	}
	if net.Addr().Is4In6() {
		if net.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q: write the IPv4 network", text)
		}
		net = netip.PrefixFrom(net.Addr().Unmap(), net.Bits()-96)
	}
	return net.Masked(), nil
}

// parseExpr reads a selector, of pods or of namespaces. Labels of service accounts are not known, so none may be asked for but
// the name; those that pods have from their namespace are asked for by a namespaceSelector.
func parseExpr(field, text string, pods bool) (*labelexpr.Expr, error) {
	e, err := labelexpr.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", field, text, err)
	}
	for _, name := range e.Names() {
		switch {
		case !pods:
		case strings.HasPrefix(name, "pcsa.") && name != "pcsa.projectcalico.org/name":
			return nil, fmt.Errorf("%s: %q: labels of service accounts are not known here: write labels of pods or serviceAccounts.names", field, text)
		case strings.HasPrefix(name, "pcns.") && name != "pcns.projectcalico.org/name":
			return nil, fmt.Errorf("%s: %q: %s is a label of the namespace: write a namespaceSelector", field, text, name)
		}
	}
	return e, nil
}
