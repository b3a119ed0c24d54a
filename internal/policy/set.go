package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A program is a Policy, prepared.
type program struct {
	*Policy
	rules [2][]programRule
}

type programRule struct {
	*Rule
	any bool
	key string // of the peers; empty for nobody
}

func prepare(p *Policy) *program {
	prepared := &program{Policy: p}
	for d, rules := range p.Rules {
		for i := range rules {
			r := programRule{Rule: &rules[i]}
			r.any = slices.ContainsFunc(r.Peers, func(p Peer) bool { return p.Any })
			if !r.any {
				r.key = peersKey(r.Peers)
			}
			prepared.rules[d] = append(prepared.rules[d], r)
		}
	}
	return prepared
}

// A set is what policies say about one direction of a pod. It is immutable, but for who uses it.
type set struct {
	id       uint64
	key      string
	d        Direction
	tiers    []setTier
	peers    []*peerSet // each once
	asksAny  bool       // some rule asks anybody for a port by name
	uses     int        // by directions of local pods
	written  bool       // the maps hold its verdicts
	fallback *list      // about the class of whom nothing is to be said
}

type setTier struct {
	end   Action
	rules []setRule
}

type setRule struct {
	action Action
	peers  *peerSet // nil for anybody
	points []Interval
	named  []NamedPort // of the peer: of egress rules only
}

// set returns the set of what the programs say about the direction of the pod, nil when it is not isolated. Programs apply and are in
// order.
func (c *Compiler) set(d Direction, pod *cluster.PolicyPod, labels map[string]string, programs []*program) *set {
	var tiers []setTier
	for len(programs) > 0 {
		tier := c.tier(programs[0].Tier)
		n := slices.IndexFunc(programs, func(p *program) bool { return p.Tier != tier.Name })
		if n < 0 {
			n = len(programs)
		}
		t := setTier{end: tier.End}
		if c.knowsTier(tier.Name) {
			for _, p := range programs[:n] {
				t.rules = c.appendRules(t.rules, d, pod, labels, p)
			}
		}
		if programs = programs[n:]; t.end != Pass || len(t.rules) > 0 {
			tiers = append(tiers, t)
		}
	}
	if len(tiers) == 0 {
		return nil
	}
	return c.intern(d, tiers)
}

func (c *Compiler) appendRules(to []setRule, d Direction, pod *cluster.PolicyPod, labels map[string]string, p *program) []setRule {
	for i := range p.rules[d] {
		r := &p.rules[d][i]
		if r.Subject != nil && !r.Subject.matches(labelled(pod), labels) {
			continue
		}
		one := setRule{action: r.Action, points: r.Ports.Points}
		if d == Egress {
			one.named = r.Ports.Named
		} else {
			one.points = join(one.points, resolve(r.Ports.Named, pod.Ports))
		}
		if len(one.points) == 0 && len(one.named) == 0 {
			continue
		}
		if !r.any {
			if r.key == "" {
				continue
			}
			one.peers = c.peerSet(r.key, r.Peers)
		}
		to = append(to, one)
	}
	return to
}

// resolve looks names up among the ports of a pod.
func resolve(names []NamedPort, ports []cluster.NamedPort) (points []Interval) {
	for _, port := range ports {
		if slices.Contains(names, NamedPort{port.Protocol, port.Name}) {
			points = append(points, Range(port.Protocol, port.Port, port.Port))
		}
	}
	return union(points)
}

func (c *Compiler) intern(d Direction, tiers []setTier) *set {
	c.scratch = appendTiers(fmt.Appendf(c.scratch[:0], "set\n%d", d), tiers)
	if s := c.sets[string(c.scratch)]; s != nil {
		return s
	}
	s := &set{id: c.id(c.scratch), key: string(c.scratch), d: d, tiers: tiers}
	c.sets[s.key] = s
	for r := range s.eachRule() {
		c.askNames(r, 1)
		s.asksAny = s.asksAny || r.peers == nil && len(r.named) > 0
		if r.peers == nil {
			continue
		}
		if r.peers.uses++; !slices.Contains(s.peers, r.peers) {
			s.peers = append(s.peers, r.peers)
			r.peers.sets[s] = struct{}{}
		}
	}
	s.fallback = c.list(s.verdict(c.none))
	return s
}

// appendTiers appends the content of tiers.
func appendTiers(to []byte, tiers []setTier) []byte {
	for _, t := range tiers {
		to = fmt.Appendf(to, "\ntier %d", t.end)
		for _, r := range t.rules {
			to = appendRule(to, &r)
		}
	}
	return to
}

func appendRule(to []byte, r *setRule) []byte {
	to = fmt.Appendf(to, "\n%d ", r.action)
	if r.peers != nil {
		to = fmt.Appendf(to, "%x", r.peers.id)
	}
	for _, i := range r.points {
		to = fmt.Appendf(to, " %x-%x", i.Lo, i.Hi)
	}
	for _, n := range r.named {
		to = fmt.Appendf(to, " %d/%q", n.Protocol, n.Name)
	}
	return to
}

func (s *set) eachRule() func(yield func(*setRule) bool) {
	return func(yield func(*setRule) bool) {
		for i := range s.tiers {
			for j := range s.tiers[i].rules {
				if !yield(&s.tiers[i].rules[j]) {
					return
				}
			}
		}
	}
}

// askNames counts the names that egress rules ask for.
func (c *Compiler) askNames(r *setRule, by int) {
	for _, name := range r.named {
		asks := c.askedOfAny
		if r.peers != nil {
			asks = r.peers.asks
		}
		c.askedNames[name] += by
		asks[name] += by
		if first, last := asks[name] == by, asks[name] == 0; first || last {
			c.touchAsked(name, r.peers)
		}
		if asks[name] == 0 {
			delete(asks, name)
		}
		if c.askedNames[name] == 0 {
			delete(c.askedNames, name)
		}
	}
}

// touchAsked: pods that have such a port may get other classes, if they are in the peer-set; nil is everybody.
func (c *Compiler) touchAsked(name NamedPort, peers *peerSet) {
	for g := range c.allGroups {
		if peers != nil && !peers.mixed && !peers.bounded && !peers.placed {
			if _, member := slices.BinarySearch(g.members, peers.serial); !member {
				continue
			}
		}
		if slices.ContainsFunc(g.ports, func(p cluster.NamedPort) bool { return p.Name == name.Name && p.Protocol == name.Protocol }) {
			c.touchGroup(g)
		}
	}
}

// unuse forgets a set, and its peer-sets, once no pod has it.
func (c *Compiler) unuse(s *set) {
	if s == nil {
		return
	}
	if s.uses--; s.uses > 0 {
		return
	}
	delete(c.sets, s.key)
	for r := range s.eachRule() {
		c.askNames(r, -1)
		if r.peers != nil {
			r.peers.uses--
		}
	}
	for _, ps := range s.peers {
		if delete(ps.sets, s); ps.uses == 0 {
			c.drop(ps)
		}
	}
	c.garbage = true
}

// tier returns the one of that name. Of one that is not known nobody can say what comes before it: it denies all, first of all.
func (c *Compiler) tier(name string) Tier {
	if t, ok := c.tiers[name]; ok {
		return t
	}
	return Tier{Name: name, Order: -Last, End: Deny}
}

func (c *Compiler) knowsTier(name string) bool {
	_, ok := c.tiers[name]
	return ok
}

// order sorts programs by tier, then order, then name.
func (c *Compiler) order(programs []*program) {
	slices.SortFunc(programs, func(a, b *program) int {
		if a.Tier != b.Tier {
			return comparePlaces(c.tier(a.Tier), c.tier(b.Tier))
		}
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.sortName(), b.sortName()), a.Ref.compare(b.Ref))
	})
}

func comparePlaces(a, b Tier) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Name, b.Name))
}

func (p *Policy) sortName() string { return cmp.Or(p.SortName, p.Ref.Name.Name) }

// matches are the points at which the rule is about an address of the class. What a listener sends is its own.
func (r *setRule) matches(d Direction, cl *class) []Interval {
	points := r.direct(cl)
	if d == Ingress {
		return points
	}
	for _, v := range cl.via {
		if contains(r.direct(v.class), Point(v.protocol, v.target)) {
			points = join(points, []Interval{Range(v.protocol, v.port, v.port)})
		}
	}
	return points
}

func (r *setRule) direct(cl *class) []Interval {
	if r.peers != nil && !cl.has(r.peers.serial) {
		return nil
	}
	if len(r.named) == 0 || len(cl.names) == 0 {
		return r.points
	}
	return join(r.points, resolve(r.named, cl.names))
}

// decide tells the points by what becomes of them; those that are logged are among the others.
func (t *setTier) decide(d Direction, cl *class, here []Interval) (outcome [Log + 1][]Interval) {
	for i := range t.rules {
		r := &t.rules[i]
		points := both(r.matches(d, cl), here)
		if len(points) == 0 {
			continue
		}
		outcome[r.action] = join(outcome[r.action], points)
		if r.action != Log {
			here = without(here, points)
		}
	}
	outcome[t.end] = join(outcome[t.end], here)
	return outcome
}

// verdict is the points that the set allows to an address of the class.
func (s *set) verdict(cl *class) []Interval {
	var allowed, logged []Interval
	undecided := []Interval{All}
	for i := range s.tiers {
		outcome := s.tiers[i].decide(s.d, cl, undecided)
		allowed, logged = join(allowed, outcome[Allow]), join(logged, outcome[Log])
		if undecided = outcome[Pass]; len(undecided) == 0 {
			break
		}
	}
	allowed = join(allowed, undecided)
	return marked(allowed, both(logged, allowed))
}
