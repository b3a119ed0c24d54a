package policy

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/labelexpr"
)

const (
	kindCalicoPolicy = "crd.NetworkPolicy"
	kindCalicoGlobal = "crd.GlobalNetworkPolicy"
)

// CalicoSets are the network sets there are, which the selectors of Calico's rules find as they find pods. When they or labels
// of namespaces change, Calico's policies have to be translated again.
type CalicoSets struct {
	Sets            []*cluster.CalicoNetworkSet
	NamespaceLabels func(namespace string) map[string]string
}

// FromCalicoPolicy translates an object that has been checked, as those of a Snapshot are.
func FromCalicoPolicy(in *cluster.CalicoPolicy, sets CalicoSets) *Policy {
	t := calicoTranslation{CalicoSets: sets, namespace: in.Name.Namespace}
	p := &Policy{
		Ref:   Ref{kindCalicoPolicy, in.Name},
		Tier:  in.Spec.Tier,
		Order: orderOf(in.Spec.Order), SortName: in.SortName,
		Subject: Pods{
			Namespace:  in.Name.Namespace,
			Namespaces: calicoExpr(in.Spec.NamespaceSelector),
			Labels:     calicoExpr(in.Spec.Selector),
		},
		Applies: [2]bool{Ingress: in.HasType(cluster.CalicoIngress), Egress: in.HasType(cluster.CalicoEgress)},
	}
	if in.Global() {
		p.Ref.Kind = kindCalicoGlobal
	}
	for i := range in.Spec.Ingress {
		r := &in.Spec.Ingress[i]
		p.Rules[Ingress] = append(p.Rules[Ingress], t.rule(r, &r.Destination, &r.Source))
	}
	for i := range in.Spec.Egress {
		r := &in.Spec.Egress[i]
		p.Rules[Egress] = append(p.Rules[Egress], t.rule(r, &r.Source, &r.Destination))
	}
	return p
}

func orderOf(order *float64) float64 {
	if order == nil {
		return Last
	}
	return *order
}

// WithCalicoTiers returns the tiers of a cluster that has Calico's: those that always are, those that Tier objects define, and
// those that policies name though nothing defines them, which Calico puts last. The tiers that always are stay as they
// are.
func WithCalicoTiers(tiers []*cluster.CalicoTier, policies []*cluster.CalicoPolicy) []Tier {
	all := Tiers()
	has := func(name string) bool { return slices.ContainsFunc(all, func(t Tier) bool { return t.Name == name }) }
	for _, in := range tiers {
		if has(in.Name.Name) {
			continue
		}
		tier := Tier{Name: in.Name.Name, Order: orderOf(in.Spec.Order), End: Deny}
		if in.Spec.DefaultAction == cluster.CalicoPass {
			tier.End = Pass
		}
		all = append(all, tier)
	}
	for _, p := range policies {
		if !has(p.Spec.Tier) {
			all = append(all, Tier{Name: p.Spec.Tier, Order: Last, End: Deny})
		}
	}
	return all
}

// A calicoTranslation is of one policy.
type calicoTranslation struct {
	CalicoSets
	namespace string // empty for a global one
}

func (t *calicoTranslation) rule(in *cluster.CalicoRule, own, other *cluster.CalicoEntity) Rule {
	return Rule{
		Action:  map[string]Action{cluster.CalicoAllow: Allow, cluster.CalicoPass: Pass, cluster.CalicoLog: Log}[in.Action],
		Subject: t.subject(own),
		Peers:   t.peers(other, in.IPVersion),
		Ports:   calicoPorts(in),
	}
}

// subject is what the end that the policy selects must be besides, nil for nothing.
func (t *calicoTranslation) subject(e *cluster.CalicoEntity) *Pods {
	if e.Selector == "" && e.NotSelector == "" && e.NamespaceSelector == "" && e.ServiceAccounts == nil {
		return nil
	}
	pods, ok := t.pods(e)
	if !ok {
		return &Pods{Labels: nobody{}}
	}
	if e.NotSelector != "" {
		text := "!(" + e.NotSelector + ")"
		if e.Selector != "" {
			text = "(" + e.Selector + ") && " + text
		}
		pods.Labels = calicoLabelsOf(text, e.ServiceAccounts)
	}
	return &pods
}

// pods are the pods that the selectors of an entity select, NotSelector aside; false for none.
func (t *calicoTranslation) pods(e *cluster.CalicoEntity) (Pods, bool) {
	pods := Pods{Labels: calicoLabelsOf(e.Selector, e.ServiceAccounts)}
	switch {
	case e.NamespaceSelector == "":
		pods.Namespace = t.namespace
	case isGlobal(e.NamespaceSelector):
		return Pods{}, false
	default:
		pods.Namespaces = calicoExpr(e.NamespaceSelector)
	}
	return pods, true
}

// peers are what the entity matches: pods, networks that are written into the rule and those that its selectors find.
func (t *calicoTranslation) peers(e *cluster.CalicoEntity, version *int) []Peer {
	selects := e.Selector != "" || e.NamespaceSelector != "" || e.ServiceAccounts != nil || e.NotSelector != "" && t.namespace != ""
	limits := Peer{Nets: calicoNets(e.Nets, version), Except: calicoNets(e.NotNets, nil)}
	if len(limits.Nets) == 0 && len(e.Nets) > 0 { // none is of the rule's IP version
		return nil
	}
	if e.NotSelector != "" {
		not := &cluster.CalicoEntity{Selector: e.NotSelector}
		everywhere := calicoTranslation{CalicoSets: t.CalicoSets}
		pods, _ := everywhere.pods(not)
		limits.NotPods = &pods
		for _, set := range everywhere.sets(not) {
			limits.Except = append(limits.Except, set.Nets...)
		}
	}
	if !selects {
		switch {
		case len(limits.Nets) > 0:
		case limits.NotPods == nil && len(limits.Except) == 0 && version == nil:
			return []Peer{{Any: true}}
		default:
			limits.Nets = families(version)
		}
		return []Peer{limits}
	}
	if version != nil && len(limits.Nets) == 0 {
		limits.Nets = families(version)
	}
	return t.selected(e, limits)
}

// selected are the pods and the network sets that an entity selects, within limits.
func (t *calicoTranslation) selected(e *cluster.CalicoEntity, limits Peer) []Peer {
	var peers []Peer
	if pods, ok := t.pods(e); ok {
		peer := limits
		peer.Pods = &pods
		peers = append(peers, peer)
	}
	for _, set := range t.sets(e) {
		peer := limits
		if peer.Nets = overlaps(set.Nets, limits.Nets); len(peer.Nets) > 0 {
			peers = append(peers, peer)
		}
	}
	return peers
}

// sets are the network sets that the selectors of an entity select, NotSelector aside. None has a service account.
func (t *calicoTranslation) sets(e *cluster.CalicoEntity) []*cluster.CalicoNetworkSet {
	if e.ServiceAccounts != nil && len(e.ServiceAccounts.Names) > 0 {
		return nil
	}
	labels, errLabels := labelexpr.Parse(e.Selector)
	namespaces, errNamespaces := labelexpr.Parse(e.NamespaceSelector)
	if errLabels != nil || errNamespaces != nil {
		return nil
	}
	var found []*cluster.CalicoNetworkSet
	for _, set := range t.Sets {
		in := set.Name.Namespace
		near := t.namespace == "" || in == t.namespace
		if e.NamespaceSelector != "" {
			near = namespaces.Holds(labelexpr.Place{All: in != "", Global: in == "", Labels: t.ofNamespace(in)})
		}
		if near && labels.Holds(labelexpr.Place{All: true, Labels: ofSet(set)}) {
			found = append(found, set)
		}
	}
	return found
}

// ofNamespace are the labels of a namespace as its sets inherit them; a global set has none.
func (t *calicoTranslation) ofNamespace(namespace string) labelexpr.Labels {
	if namespace == "" {
		return func(string) (string, bool) { return "", false }
	}
	return Labelled{Name: namespace, Labels: t.NamespaceLabels(namespace)}.label
}

func ofSet(set *cluster.CalicoNetworkSet) labelexpr.Labels {
	return func(name string) (string, bool) {
		if set.Name.Namespace != "" && (name == "projectcalico.org/namespace" || name == "pcns.projectcalico.org/name") {
			return set.Name.Namespace, true
		}
		value, ok := set.Labels[name]
		return value, ok
	}
}

// overlaps are the networks within a and within b; b empty means everything.
func overlaps(a, b []netip.Prefix) []netip.Prefix {
	if len(b) == 0 {
		return slices.Clone(a)
	}
	var out []netip.Prefix
	for _, x := range a {
		for _, y := range b {
			if !x.Overlaps(y) {
				continue
			}
			if y.Bits() > x.Bits() {
				out = append(out, y)
			} else {
				out = append(out, x)
			}
		}
	}
	return out
}

// families are the networks of everything of an IP version, nil for both.
func families(version *int) []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	return ofVersion(all, version)
}

func ofVersion(nets []netip.Prefix, version *int) []netip.Prefix {
	if version == nil {
		return nets
	}
	return slices.DeleteFunc(nets, func(net netip.Prefix) bool { return net.Addr().Is4() != (*version == 4) })
}

func calicoNets(texts []string, version *int) []netip.Prefix {
	var nets []netip.Prefix
	for _, text := range texts {
		if net, err := cluster.ParseCalicoNet(text); err == nil {
			nets = append(nets, net)
		}
	}
	return ofVersion(nets, version)
}

// calicoExpr is the selector of a text that has been checked, nil for everything.
func calicoExpr(text string) Selector {
	e, err := labelexpr.Parse(text)
	switch {
	case err != nil:
		return nobody{}
	case e.String() == "all()":
		return nil
	}
	return calicoSelector{e}
}

func isGlobal(text string) bool {
	e, err := labelexpr.Parse(text)
	return err == nil && e.IsGlobal()
}

func calicoLabelsOf(text string, accounts *cluster.CalicoServiceAccounts) Selector {
	if accounts == nil || len(accounts.Names) == 0 {
		return calicoExpr(text)
	}
	return calicoAccounts{names: slices.Sorted(slices.Values(accounts.Names)), expr: calicoExpr(text)}
}

// calicoPorts is all of a rule that is about protocols, ports and messages.
func calicoPorts(in *cluster.CalicoRule) Ports {
	points := []Interval{All}
	if in.Protocol != nil {
		points = []Interval{Whole(cluster.Protocol(*in.Protocol))}
	}
	if in.NotProtocol != nil {
		points = without(points, []Interval{Whole(cluster.Protocol(*in.NotProtocol))})
	}
	if in.ICMP != nil && in.ICMP.Type != nil {
		points = both(points, []Interval{messages(*in.Protocol, in.ICMP)})
	}
	if in.NotICMP != nil && in.NotICMP.Type != nil {
		points = without(points, []Interval{messages(*in.Protocol, in.NotICMP)})
	}
	if len(in.Destination.Ports) == 0 {
		return Ports{Points: without(points, ranges(in.Protocol, in.Destination.NotPorts))}
	}
	ports := Ports{Points: without(both(points, ranges(in.Protocol, in.Destination.Ports)), ranges(in.Protocol, in.Destination.NotPorts))}
	for _, p := range in.Destination.Ports {
		for _, named := range anyProtocol(p.Name) {
			if p.Name != "" && len(both(points, []Interval{Whole(named.Protocol)})) > 0 {
				ports.Named = append(ports.Named, named)
			}
		}
	}
	return ports
}

func messages(protocol cluster.CalicoProtocol, icmp *cluster.CalicoICMP) Interval {
	first := uint16(*icmp.Type) << 8
	if icmp.Code != nil {
		first += uint16(*icmp.Code)
		return Range(cluster.Protocol(protocol), first, first)
	}
	return Range(cluster.Protocol(protocol), first, first|0xff)
}

// ranges are the ports that are numbers, sorted. Those need a protocol.
func ranges(protocol *cluster.CalicoProtocol, ports []cluster.CalicoPort) []Interval {
	var out []Interval
	for _, p := range ports {
		if p.Name == "" && protocol != nil {
			out = append(out, Range(cluster.Protocol(*protocol), p.First, p.Last))
		}
	}
	return union(out)
}
