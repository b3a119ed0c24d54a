package takeover

import (
	"maps"
	"slices"
	"strings"
)

// A ruleset is one table as iptables knows them, in nf_tables or in the older kernel interface.
type ruleset struct {
	v6     bool
	name   string // nat, filter, mangle
	chains map[string]chain
}

// A chain has rules only if it matters what they are: see planRemoval.
type chain struct {
	base   bool // attached to a hook
	drops  bool // its policy is to drop
	jumped []jump
}

// A jump is a rule that leads to another chain.
type jump struct {
	to     string
	handle uint64 // of the rule, in nf_tables
	line   string // of the rule, as iptables-save prints it
}

// forwardChain accepts what belongs to established connections. It goes last.
const forwardChain = "KUBE-FORWARD"

// Chains that kube-proxy makes, by table (pkg/proxy/iptables/proxier.go; the last line of filter is of the ipvs mode).
var ownChains = map[string][]string{
	"nat": {
		"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-PROXY-CANARY",
	},
	"filter": {
		"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", forwardChain,
	},
	"mangle": {"KUBE-PROXY-CANARY"},
}

// Prefixes of the chains in table nat that kube-proxy makes for Service ports and endpoints; KUBE-XLB- until 1.23.
var ownPrefixes = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"}

// isOwn reports whether kube-proxy makes a chain of that name in the table.
func isOwn(table, name string) bool {
	if slices.Contains(ownChains[table], name) {
		return true
	}
	return table == "nat" && slices.ContainsFunc(ownPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// A removal is what is to go from one table.
type removal struct {
	table  ruleset
	rules  map[string][]jump // of base chains, by chain
	chains []string          // whole, sorted
	kept   []string          // kube-proxy's chains that somebody else's lead to, sorted
}

func (r removal) empty() bool { return len(r.rules) == 0 && len(r.chains) == 0 }

// What marks packets to be masqueraded, and what masquerades those with the mark.
const (
	markChain       = "KUBE-MARK-MASQ"
	masqueradeChain = "KUBE-POSTROUTING"
)

// planRemoval lists what is kube-proxy's in a table. Rules of base chains that lead there go, chains that others' chains
// lead to stay with what these lead to, and with it what masquerades if somebody marks: portmap does so by its option
// externalSetMarkChain. While connections drain the forwarding chain stays, and so it does for good where FORWARD drops
// what nothing accepts: removing it could cut whoever has come to rely on it.
func planRemoval(t ruleset, draining bool) removal {
	kept := t.wanted()
	stays := func(name string) bool {
		return name == forwardChain && (draining || t.chains["FORWARD"].drops) || name == masqueradeChain && kept[name]
	}
	r := removal{table: t, rules: map[string][]jump{}}
	for name, c := range t.chains {
		switch {
		case isOwn(t.name, name):
			if !kept[name] && !stays(name) {
				r.chains = append(r.chains, name)
			}
		case c.base:
			goes := func(j jump) bool { return isOwn(t.name, j.to) && !stays(j.to) }
			if rules := only(c.jumped, goes); len(rules) > 0 {
				r.rules[name] = rules
			}
		}
	}
	slices.Sort(r.chains)
	r.kept = slices.Sorted(maps.Keys(kept))
	return r
}

func only(jumps []jump, that func(jump) bool) (out []jump) {
	for _, j := range jumps {
		if that(j) {
			out = append(out, j)
		}
	}
	return out
}

// wanted are kube-proxy's chains that others' chains lead to, with what these lead to.
func (t ruleset) wanted() map[string]bool {
	kept := map[string]bool{}
	for name, c := range t.chains {
		if c.base || isOwn(t.name, name) {
			continue
		}
		for _, j := range only(c.jumped, func(j jump) bool { return isOwn(t.name, j.to) }) {
			t.keep(j.to, kept)
		}
	}
	if _, there := t.chains[masqueradeChain]; there && kept[markChain] {
		t.keep(masqueradeChain, kept)
	}
	return kept
}

// keep marks a chain and what it leads to.
func (t ruleset) keep(name string, kept map[string]bool) {
	if kept[name] {
		return
	}
	kept[name] = true
	for _, j := range t.chains[name].jumped {
		if isOwn(t.name, j.to) {
			t.keep(j.to, kept)
		}
	}
}

// programmed reports whether a table has what only a kube-proxy that works makes: the kubelet of before 1.28 made some
// of the other chains, too.
func (t ruleset) programmed() bool {
	_, services := t.chains["KUBE-SERVICES"]
	return t.name == "nat" && services
}
