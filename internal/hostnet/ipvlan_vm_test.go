//go:build vm

package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/netlab"
)

const podIP, nodeIP = "10.9.0.10", "10.0.0.2"

// A parentLab is a node whose ENI is an ipvlan parent, with a pod on it.
type parentLab struct {
	node, pod *netlab.NetNS
	host      *Host
	programs  *recorder
	companion Companion

	mu      sync.Mutex
	reports []report
}

func newParentLab(t *testing.T) *parentLab {
	t.Helper()
	lab, err := netlab.New("npparent")
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	p := &parentLab{programs: &recorder{}}
	p.node, err = lab.NetNS("node")
	check(t, err)
	p.pod, err = lab.NetNS("pod")
	check(t, err)
	inside(t, p.node, func() error {
		return errors.Join(up("lo"), addVeth("eth0", "02:16:3e:00:00:01", 1400), addVeth("eth5", eniMAC, 1500), routeBy("eth0"), address("eth0", "fd00::2/64"))
	})
	p.host = p.start(t)
	mustEnsure(t, p.host, theENI())
	p.companion, err = p.host.IPVlan(t.Context(), eniMAC)
	check(t, err)
	p.addPod(t)
	return p
}

func (p *parentLab) start(t *testing.T) *Host {
	t.Helper()
	return started(t, Config{NetNS: p.node.Path(), Programs: p.programs, Log: discard(), Report: func(reason, message string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reports = append(p.reports, report{reason, message})
	}}, theENI())
}

// slave adds an ipvlan link to the ENI, in the namespace of the caller.
func slave(name string, port IPVlanPort) error {
	return withENI(func(eni netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, eni.Attrs().Index
		return netlink.LinkAdd(ipvlan(attrs, port))
	})
}

// addPod wires a pod as CNI does.
func (p *parentLab) addPod(t *testing.T) {
	t.Helper()
	other, err := unix.Open(p.pod.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(other)
	inside(t, p.node, func() error {
		return errors.Join(slave("np0123456789a", IPVlanPort{}),
			on("np0123456789a", func(l netlink.Link) error { return netlink.LinkSetNsFd(l, other) }),
			route(p.companion.Link, podIP+"/32", ""))
	})
	inside(t, p.pod, func() error {
		return errors.Join(up("np0123456789a"), address("np0123456789a", podIP+"/32"), route("np0123456789a", nodeIP+"/32", ""),
			neighbour("np0123456789a", netip.MustParseAddr(nodeIP), eniMAC))
	})
}

// serves says what is wrong with the traffic between node and pod, and with the companion.
func (p *parentLab) serves(t *testing.T) (err error) {
	t.Helper()
	if seen, err := talk(p.pod, p.node, nodeIP); err != nil || seen.String() != podIP {
		return fmt.Errorf("pod to node: %s, %w", seen, err)
	}
	if seen, err := talk(p.node, p.pod, podIP); err != nil || seen.String() != nodeIP {
		return fmt.Errorf("node to pod: %s, %w", seen, err)
	}
	if ops := asWanted(t, p.node, Wanted{ENIs: []ENI{theENI()}, Parents: []string{eniMAC}}); len(ops) != 0 {
		return fmt.Errorf("still to do: %s", text(ops))
	}
	return nil
}

// An ENI becomes a parent with a companion that has the node's addresses and leads to its pods.
func TestIPVlanParent(t *testing.T) {
	check(t, SupportsIPVlan())
	p := newParentLab(t)
	c := p.companion
	inside(t, p.node, func() error {
		l, err := netlink.LinkByName("npc1")
		if err != nil {
			return err
		}
		want := Companion{Parent: "eth5", Link: "npc1", ParentIndex: indexOf(t, "eth5"), LinkIndex: l.Attrs().Index, MAC: c.MAC}
		if fmt.Sprint(c) != fmt.Sprint(want) || c.MAC.String() != eniMAC || l.Attrs().RawFlags&unix.IFF_NOARP == 0 {
			t.Errorf("companion %+v, want %+v; flags %#x", c, want, l.Attrs().RawFlags)
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, want := range []string{nodeIP + "/32", "fd00::2/128"} {
			if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == want }) {
				t.Errorf("%s is not in %v", want, addrs)
			}
		}
		return err
	})
	check(t, p.serves(t))
	if !p.programs.has(RoleCompanion, c.LinkIndex) || !p.programs.has(RoleIPVlanParent, c.ParentIndex) {
		t.Errorf("attached are %v", p.programs.attached)
	}
	again, err := p.host.IPVlan(t.Context(), eniMAC)
	if err != nil || again.LinkIndex != c.LinkIndex {
		t.Errorf("again: %v, %v", again, err)
	}
	check(t, p.host.RemoveENI(t.Context(), eniMAC))
	inside(t, p.node, func() error {
		if _, err := netlink.LinkByName("npc1"); err == nil {
			t.Error("the companion is still there")
		}
		return nil
	})
	if p.programs.has(RoleIPVlanParent, c.ParentIndex) {
		t.Error("the former parent has a program")
	}
}

// Whatever others do to the port, the companion or its addresses is undone within a second, with one report.
func TestIPVlanIsKept(t *testing.T) {
	p := newParentLab(t)
	withCompanion := func(f func(netlink.Link) error) func() error { return func() error { return on("npc1", f) } }
	for _, b := range []struct {
		name   string
		how    func() error
		report string
	}{
		{"a slave with mode l3s", func() error { return slave("theirs", IPVlanPort{Mode: 2}) }, "in mode l3s bridge: ip link set dev npc1 type ipvlan mode l2 bridge"},
		{"a slave with mode l3", func() error { return slave("theirs", IPVlanPort{Mode: 1}) }, "mode l3 bridge"},
		{"private", func() error {
			return on("npc1", func(l netlink.Link) error {
				return setIPVlanPort(l.Attrs().Index, IPVlanPort{Flag: 1})
			})
		}, "mode l2 private"},
		{"companion down", withCompanion(netlink.LinkSetDown), "npc1 was down"},
		{"ARP", withCompanion(netlink.LinkSetARPOn), "npc1 asked for neighbours"},
		{"addresses", withCompanion(flushAddrs), "ip address add 10.0.0.2/32 dev npc1"},
		{"companion deleted", withCompanion(netlink.LinkDel), "npc1 was missing"},
	} {
		t.Run(b.name, func(t *testing.T) {
			eventually(t, "settled", func() bool {
				p.host.compare()
				p.host.pass.Lock()
				defer p.host.pass.Unlock()
				_, settled := p.host.memory.settled[scope{PartIPVlan, eniMAC}]
				clear(p.host.memory.reported)
				return settled && p.serves(t) == nil
			})
			start := time.Now()
			inside(t, p.node, b.how)
			eventually(t, "as wanted", func() bool {
				return len(asWanted(t, p.node, Wanted{ENIs: []ENI{theENI()}, Parents: []string{eniMAC}})) == 0
			})
			took := time.Since(start)
			t.Logf("as wanted after %v", took.Round(time.Millisecond))
			if took > time.Second {
				t.Errorf("took %v", took)
			}
			inside(t, p.node, func() error {
				if theirs, err := netlink.LinkByName("theirs"); err == nil {
					check(t, netlink.LinkDel(theirs)) // which does not change the mode back
				}
				return ignore(route("npc1", podIP+"/32", ""), unix.EEXIST) // CNI's
			})
			check(t, p.serves(t))
			reported := func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.reports) > 0
			}
			eventually(t, "report", func() bool { // with the first comparison that has nothing to do
				p.host.compare()
				return reported()
			})
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.reports) != 1 || !strings.Contains(p.reports[0].message, b.report) {
				t.Errorf("reports %q, want one with %q", p.reports, b.report)
			}
			p.reports = nil
		})
	}
}

// The companion has the addresses that the node has now.
func TestIPVlanCompanionFollowsTheNode(t *testing.T) {
	p := newParentLab(t)
	inside(t, p.node, func() error {
		return errors.Join(address("eth0", "10.0.0.7/24"), on("eth0", func(l netlink.Link) error {
			return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("fd00::2/64"))})
		}))
	})
	eventually(t, "addresses", func() (ok bool) {
		inside(t, p.node, func() error {
			found, err := read(Wanted{ENIs: []ENI{theENI()}})
			have := found.Addrs[p.companion.LinkIndex]
			ok = slices.Contains(have, netip.MustParsePrefix("10.0.0.7/32")) && !slices.Contains(have, netip.MustParsePrefix("fd00::2/128"))
			return err
		})
		return ok
	})
	check(t, p.serves(t))
}

// A new agent finds the parent in the kernel, and neither pods nor programs miss anything.
func TestIPVlanAcrossRestart(t *testing.T) {
	p := newParentLab(t)
	p.programs = &recorder{} // of the new process
	h := p.start(t)
	eventually(t, "programs", func() bool {
		return p.programs.has(RoleCompanion, p.companion.LinkIndex) && p.programs.has(RoleIPVlanParent, p.companion.ParentIndex)
	})
	check(t, p.serves(t))
	c, err := h.IPVlan(t.Context(), eniMAC)
	if err != nil || c.LinkIndex != p.companion.LinkIndex {
		t.Errorf("companion %v, %v, want %v", c, err, p.companion)
	}
}
