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
	nothing
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
		switch does, i := p.ask(c, v); does {
		case pass:
			return false
		case allow, deny:
			v.Allowed, v.Reason, v.Policies, v.Rule = does == allow, ByRule, []Policy{p.Policy}, i
			return true
		}
	}
	if len(asked) == 0 || t.end == pass {
		return false
	}
	v.Allowed, v.Reason, v.Policies = false, DefaultDeny, asked
	return true
}

// ask returns what the first rule that matches does, and its index; nothing if none does. It notes rules that log.
func (p *policy) ask(c *packet, v *Verdict) (action, int) {
	for i := 0; ; i++ {
		does, matches, there := p.rule(c, i)
		switch {
		case !there:
			return nothing, 0
		case matches && does == log:
			v.Logged = true
		case matches:
			return does, i
		}
	}
}

// tiers are all that there are, with their policies, in the order in which they are asked.
func (w *World) tiers() []*tier {
	tiers := w.emptyTiers()
	find := func(name string) *tier {
		i := slices.IndexFunc(tiers, func(t *tier) bool { return t.name == name })
		if i < 0 { // a tier that nothing defines is the last, as in Calico
			i, tiers = len(tiers), append(tiers, &tier{name: name, order: math.Inf(1)})
		}
		return tiers[i]
	}
	for in := range w.Snapshot.CalicoPolicies() {
		find(in.Spec.Tier).add(calicoPolicy(in))
	}
	for in := range w.Snapshot.NetworkPolicies() {
		find(defaultTier).add(networkPolicy(in))
	}
	for in := range w.Snapshot.ClusterNetworkPolicies() {
		if in.Spec.Tier == cluster.TierAdmin {
			find(adminTier).add(clusterPolicy(in))
		} else {
			find(baselineTier).add(clusterPolicy(in))
		}
	}
	slices.SortFunc(tiers, func(a, b *tier) int { return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.name, b.name)) })
	for _, t := range tiers {
		slices.SortFunc(t.policies, policy.compare)
	}
	return tiers
}

func (t *tier) add(p policy) { t.policies = append(t.policies, p) }

// The tiers that always are, by their names in Calico. A Tier object changes nothing about them.
const (
	adminTier    = "kube-admin"
	defaultTier  = "default"
	baselineTier = "kube-baseline"
)

func (w *World) emptyTiers() []*tier {
	tiers := []*tier{
		{name: adminTier, order: 1_000, end: pass},
		{name: defaultTier, order: 1_000_000, end: deny},
		{name: baselineTier, order: 10_000_000, end: pass},
	}
	for in := range w.Snapshot.CalicoTiers() {
		t := &tier{name: in.Name.Name, order: orderOf(in.Spec.Order)}
		if in.Spec.DefaultAction == cluster.CalicoPass {
			t.end = pass
		}
		if t.name != adminTier && t.name != defaultTier && t.name != baselineTier {
			tiers = append(tiers, t)
		}
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
