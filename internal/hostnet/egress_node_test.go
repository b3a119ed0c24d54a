//go:build node

package hostnet

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

func (s *site) egress() Egress {
	e := Egress{Mode: EgressNodeSNAT, Exempt: prefixes("10.16.0.0/16", "10.17.0.0/16", "10.96.0.0/12")} // two of them adjacent
	for _, p := range dualStack {
		e.VPC = append(e.VPC, netip.MustParsePrefix(p.vpc))
	}
	return e
}

func (s *site) wanted() Wanted { return Wanted{ENIs: []ENI{s.eni()}, Egress: s.egress()} }

// mustSee checks who the other side sees when the pod connects to it.
func (s *site) mustSee(t *testing.T, target, want string) {
	t.Helper()
	got, err := talk(s.pod, s.far, target)
	if err != nil || got.String() != want {
		t.Errorf("%s sees %s: %v; want %s", target, got, err, want)
	}
}

func TestNodeSNATByFamily(t *testing.T) {
	s := newSite(t)
	for _, p := range dualStack {
		pod, node := netip.MustParsePrefix(p.pod).Addr().String(), netip.MustParsePrefix(p.node).Addr().String()
		check(t, s.host.SetEgress(Egress{Mode: EgressNone}))
		s.mustSee(t, p.outside, pod)
		check(t, s.host.SetEgress(s.egress()))
		s.mustSee(t, p.outside, node)
		s.mustSee(t, p.inside, pod)
		// A connection from outside came by the ENI, as from a load balancer with the pod as backend. Its answers are not taken
		// from elsewhere.
		if got, err := s.talkFrom(p.outside, pod); err != nil || got.String() != p.outside {
			t.Errorf("from outside: pod sees %s: %v", got, err)
		}
		// The node's own traffic is not ours.
		if got, err := talk(s.node, s.far, p.outside); err != nil || got.String() != node {
			t.Errorf("from the node: %s: %v", got, err)
		}
	}
	if ops := asWanted(t, s.node, s.wanted()); len(ops) != 0 {
		t.Errorf("still to do:\n%s", text(ops))
	}
	check(t, s.host.SetEgress(Egress{Mode: EgressNone}))
	for _, p := range dualStack {
		s.mustSee(t, p.outside, netip.MustParsePrefix(p.pod).Addr().String())
	}
	inside(t, s.node, func() error {
		tables, err := (&nftables.Conn{}).ListTables()
		if len(tables) != 1 || tables[0].Name != datapath {
			t.Errorf("tables left: %d", len(tables))
		}
		found, readErr := read(s.wanted())
		if i := slices.IndexFunc(found.Rules, func(r Rule) bool { return r.Priority == PriorityOutside }); i >= 0 {
			t.Errorf("rule left: %s", found.Rules[i])
		}
		return errors.Join(err, readErr)
	})
}

// talkFrom connects from an address of the far namespace to the pod.
func (s *site) talkFrom(source, pod string) (netip.Addr, error) {
	for _, p := range dualStack {
		if p.outside == source {
			err := s.far.Do(func() error { return sourceRoute(p) })
			if err != nil {
				return netip.Addr{}, err
			}
		}
	}
	return talk(s.far, s.pod, pod)
}

// sourceRoute makes the far namespace's connections to the pod come from outside.
func sourceRoute(p places) error {
	l, err := netlink.LinkByName("eni")
	if err != nil {
		return err
	}
	pod := netip.MustParsePrefix(p.pod).Addr()
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: ipNet(netip.PrefixFrom(pod, pod.BitLen())), Src: netip.MustParseAddr(p.outside).AsSlice(), Scope: netlink.SCOPE_LINK,
	})
}

// A change of the table wakes the host, without anything else happening on the node.
func TestNATChangeIsSeen(t *testing.T) {
	lab, err := netlab.New("npnft")
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	bare, err := lab.NetNS("bare")
	check(t, err)
	h, err := New(Config{NetNS: bare.Path(), Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	defer h.Close()
	stop, err := h.subscribe()
	check(t, err)
	defer stop()
	for _, change := range []func() error{func() error { return setNAT(NAT{Uplinks: []string{"eth0"}}) }, deleteNAT} {
		inside(t, bare, change)
		select {
		case <-h.events:
		case <-time.After(time.Minute):
			t.Fatal("no event")
		}
	}
}

// What somebody does to our table and rules is undone; what they do to theirs is theirs.
func TestNodeSNATIsKept(t *testing.T) {
	s := newSite(t)
	check(t, s.host.SetEgress(s.egress()))
	theirs := &nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet}
	batch := func(change func(c *nftables.Conn)) func() error {
		return func() error {
			c := &nftables.Conn{}
			change(c)
			return c.Flush()
		}
	}
	inside(t, s.node, batch(func(c *nftables.Conn) {
		c.AddChain(&nftables.Chain{Name: "foreign", Table: c.AddTable(theirs)})
	}))
	for name, breakIt := range map[string]func() error{
		"table": batch(func(c *nftables.Conn) { c.DelTable(ourTable()) }),
		"rules": batch(func(c *nftables.Conn) { c.FlushTable(ourTable()) }),
		"set": batch(func(c *nftables.Conn) {
			set := &nftables.Set{Table: ourTable(), Name: "pods4", KeyType: nftables.TypeIPAddr, Interval: true}
			check(t, c.SetDeleteElements(set, intervals(prefixes("10.9.0.0/24"))))
		}),
		"foreign rule in our chain": batch(func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: ourTable(), Chain: &nftables.Chain{Name: chainOutside}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}),
		"mark rule":      func() error { return netlink.RuleDel(kernelRule(outsideRule(IPv4))) },
		"IPv6 mark rule": func() error { return netlink.RuleDel(kernelRule(outsideRule(IPv6))) },
	} {
		inside(t, s.node, breakIt)
		eventually(t, name, func() bool { return len(asWanted(t, s.node, s.wanted())) == 0 })
		p := dualStack[IPv4]
		s.mustSee(t, p.outside, netip.MustParsePrefix(p.node).Addr().String())
	}
	check(t, s.host.SetEgress(Egress{Mode: EgressNone}))
	inside(t, s.node, func() error {
		chains, err := (&nftables.Conn{}).ListChainsOfTableFamily(nftables.TableFamilyINet)
		if len(chains) != 2 || !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Name == "foreign" }) {
			t.Errorf("chains of others: %v", chains)
		}
		return err
	})
}
