package interpret

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// An action is what a rule does.
type action uint8

const (
	deny action = iota
	allow
	pass // the rest of the tier is left out
	log  // the next rule is asked
)

// A tier is policies that are asked together.
type tier struct {
	name     string
	order    float64
	end      action // of pods that one of the policies selects and no rule matched: deny or pass
	policies []policy
}

// A policy is an object as its own API says it.
type policy struct {
	Policy
	order float64
	name  string // by which equal orders are told apart
	// isolates reports whether the policy is about the pod in the direction of the packet.
	isolates func(c *packet) bool
	// rule reports what the rule i does with the packet; matches is false if it is not about it, and there is false after the last.
	rule func(c *packet, i int) (does action, matches, there bool)
}

// decide asks the tier, and reports whether it has decided.
func (t *tier) decide(c *packet, v *Verdict) bool {
	var asked []Policy
	for _, p := range t.policies {
		if !p.isolates(c) {
			continue
		}
		asked = append(asked, p.Policy)
		for i := 0; ; i++ {
			does, matches, there := p.rule(c, i)
			if !there {
				break
			}
			if !matches {
				continue
			}
			switch does {
			case log:
				v.Logged = true
			case pass:
				return false
			default:
				v.Allowed, v.Reason, v.Policies, v.Rule = does == allow, ByRule, []Policy{p.Policy}, i
				return true
			}
		}
	}
	if len(asked) == 0 || t.end == pass {
		return false
	}
	v.Allowed, v.Reason, v.Policies = false, DefaultDeny, asked
	return true
}

// tiers are all that there are, with their policies, in the order in which they are asked.
func (w *World) tiers() []*tier {
	tiers := []*tier{
		{name: "kube-admin", order: 1_000, end: pass},
		{name: "default", order: 1_000_000, end: deny},
		{name: "kube-baseline", order: 10_000_000, end: pass},
	}
	find := func(name string) *tier {
		for _, t := range tiers {
			if t.name == name {
				return t
			}
		}
		return nil
	}
	for in := range w.Snapshot.CalicoTiers() {
		if find(in.Name.Name) == nil {
			t := &tier{name: in.Name.Name, order: orderOf(in.Spec.Order)}
			if in.Spec.DefaultAction == cluster.CalicoPass {
				t.end = pass
			}
			tiers = append(tiers, t)
		}
	}
	for in := range w.Snapshot.CalicoPolicies() {
		t := find(in.Spec.Tier)
		if t == nil { // a tier that nothing defines is the last, as in Calico
			t = &tier{name: in.Spec.Tier, order: math.Inf(1)}
			tiers = append(tiers, t)
		}
		t.policies = append(t.policies, calicoPolicy(in))
	}
	for in := range w.Snapshot.NetworkPolicies() {
		t := find("default")
		t.policies = append(t.policies, networkPolicy(in))
	}
	for in := range w.Snapshot.ClusterNetworkPolicies() {
		t := find("kube-baseline")
		if in.Spec.Tier == cluster.TierAdmin {
			t = find("kube-admin")
		}
		t.policies = append(t.policies, clusterPolicy(in))
	}
	slices.SortFunc(tiers, func(a, b *tier) int { return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.name, b.name)) })
	for _, t := range tiers {
		slices.SortFunc(t.policies, policy.compare)
	}
	return tiers
}

func (p policy) compare(o policy) int {
	return cmp.Or(
		cmp.Compare(p.order, o.order), strings.Compare(p.name, o.name),
		strings.Compare(p.Name.Namespace, o.Name.Namespace), strings.Compare(p.Kind, o.Kind), strings.Compare(p.Name.Name, o.Name.Name),
	)
}

func orderOf(order *float64) float64 {
	if order == nil {
		return math.Inf(1)
	}
	return *order
}
