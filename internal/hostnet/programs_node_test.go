//go:build node

package hostnet

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A recorder stands in for the datapath.
type recorder struct {
	mu       sync.Mutex
	attached map[Attachment]bool
	node     SetNode
}

func (r *recorder) Attach(role Role, index int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached == nil {
		r.attached = map[Attachment]bool{}
	}
	r.attached[Attachment{role, index}] = true
	return nil
}

func (r *recorder) Attached(role Role, index int) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attached[Attachment{role, index}], nil
}

func (r *recorder) Detach(role Role, index int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.attached, Attachment{role, index})
	return nil
}

func (r *recorder) SetNode(node SetNode) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node = node
	return nil
}

func (r *recorder) told() SetNode {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.node
}

func (r *recorder) has(role Role, index int) bool {
	ok, _ := r.Attached(role, index)
	return ok
}

// started runs the host of a configuration, which wants the ENIs, until the test ends.
func started(t *testing.T, c Config, enis ...ENI) *Host {
	t.Helper()
	h, err := New(c)
	check(t, err)
	for _, e := range enis {
		h.Want(e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, errors.Join(<-done, h.Close()))
	})
	return h
}

func indexOf(t *testing.T, name string) (index int) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	return l.Attrs().Index
}

// Uplinks have their program, and an event has it back when somebody takes it off.
func TestProgramsAreKept(t *testing.T) {
	n := node(t)
	var eth0, eth5 int
	inside(t, n, func() error {
		eth0, eth5 = indexOf(t, "eth0"), indexOf(t, "eth5")
		return nil
	})
	r := &recorder{}
	h := started(t, Config{NetNS: n.Path(), Programs: r, Log: discard(), HostNetworks: prefixes("10.200.0.0/16"), Interval: time.Hour})
	mustEnsure(t, h, theENI())
	eventually(t, "attached", func() bool { return r.has(RoleUplink, eth0) })
	if r.has(RoleUplink, eth5) || r.has(RoleIPVlanParent, eth5) || !r.has(RoleENI, eth5) {
		t.Error("the ENI has a program that it needs not, or not its own")
	}
	want := netip.MustParseAddr("10.0.0.2")
	told := r.told()
	if !slices.Equal(told.Addrs, []netip.Addr{want}) || !slices.Equal(h.Addrs(), told.Addrs) {
		t.Errorf("addresses %v and %v, want %s", told.Addrs, h.Addrs(), want)
	}
	if networks := []HostNetwork{{netip.PrefixFrom(want, 32), ByNode}, {netip.MustParsePrefix("10.200.0.0/16"), ByNode}}; !slices.Equal(told.Networks, networks) {
		t.Errorf("networks %v, want %v", told.Networks, networks)
	}
	check(t, r.Detach(RoleUplink, eth0))
	eventually(t, "attached again", func() bool { return r.has(RoleUplink, eth0) })
	check(t, r.Detach(RoleENI, eth5))
	eventually(t, "attached to the ENI again", func() bool { return r.has(RoleENI, eth5) })
	// The node's addresses change.
	inside(t, n, func() error { return address("eth0", "10.0.0.3/24") })
	eventually(t, "address", func() bool { return len(h.Addrs()) == 2 })
	// An uplink that is one no more.
	inside(t, n, func() error {
		return errors.Join(addVeth("eth1", otherMAC, 1500), up("eth1"), route("eth1", "0.0.0.0/0", "10.0.0.253"),
			on("eth0", func(l netlink.Link) error {
				return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(everything(IPv4))})
			}))
	})
	eventually(t, "program of the former uplink", func() bool { return !r.has(RoleUplink, eth0) })
}

// Another program's ENI has the uplinks' program while it has an address, and its addresses and a bridge's are the node's,
// by the events of their coming and going.
func TestLocalAddressesAreFollowed(t *testing.T) {
	n := node(t)
	const second, bridge = "10.7.0.2", "172.17.0.1"
	var eth0, eth9 int
	inside(t, n, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		br.Name = "docker0"
		err := errors.Join(addVeth("eth9", vendorMAC+"00:00:09", 1500), netlink.LinkAdd(br))
		eth0, eth9 = indexOf(t, "eth0"), indexOf(t, "eth9")
		return err
	})
	r := &recorder{}
	reports := make(chan string, 10)
	h := started(t, Config{
		NetNS: n.Path(), Programs: r, Log: discard(), NodePorts: NodePorts{Networks: prefixes("10.7.0.0/24")}, Interval: time.Hour,
		Report: func(reason, message string) { reports <- reason + ": " + message },
	})
	mustEnsure(t, h, theENI())
	quiet(t, h)
	local := func() (text string) {
		for _, l := range r.told().Local {
			text += " " + map[bool]string{true: "+", false: ""}[l.NodePorts] + l.Addr.String()
		}
		return text
	}
	follows := func(what string, lacking func() bool) {
		t.Helper()
		eventually(t, what, lacking)
		h.Refresh() // finds all as wanted: what comes next is by others
	}
	if got, want := local(), " 10.0.0.2 127.0.0.1 +::1"; got != want || r.has(RoleUplink, eth9) {
		t.Errorf("before: %s, want %s; program on the other ENI: %t", got, want, r.has(RoleUplink, eth9))
	}
	inside(t, n, func() error {
		return errors.Join(address("docker0", bridge+"/16"), address("eth9", second+"/24"), up("eth9"))
	})
	follows("addresses", func() bool {
		return local() == " 10.0.0.2 +10.7.0.2 127.0.0.1 172.17.0.1 +::1" && r.has(RoleUplink, eth9)
	})
	own := func(link int, addr string) func(LinkAddrs) bool {
		return func(l LinkAddrs) bool { return l.equal(LinkAddrs{link, []netip.Addr{netip.MustParseAddr(addr)}}) }
	}
	if links := r.told().Links; len(links) != 2 || !slices.ContainsFunc(links, own(eth9, second)) || !slices.ContainsFunc(links, own(eth0, "10.0.0.2")) {
		t.Errorf("links stand with %v", links)
	}
	if addrs, all := h.NodePortAddrs(); all || len(addrs) != 2 {
		t.Errorf("node ports on %v, all: %t", addrs, all)
	}
	h.pass.Lock() // a comparison that takes long
	h.SetServiceNetworks(prefixes("10.96.0.0/16"), nil)
	h.pass.Unlock()
	follows("Services", func() bool {
		return slices.Contains(r.told().Networks, HostNetwork{netip.MustParsePrefix("10.96.0.0/16"), OfServices})
	})
	check(t, r.Detach(RoleUplink, eth9))
	follows("program put back", func() bool { return r.has(RoleUplink, eth9) })
	inside(t, n, func() error {
		return on("eth9", func(l netlink.Link) error { return netlink.LinkSetMasterByIndex(l, indexOf(t, "docker0")) })
	})
	follows("program off a port of the bridge", func() bool { return !r.has(RoleUplink, eth9) })
	inside(t, n, func() error { return on("eth9", netlink.LinkSetNoMaster) })
	follows("program on what is no port any more", func() bool { return r.has(RoleUplink, eth9) })
	inside(t, n, func() error {
		return on("eth9", func(l netlink.Link) error {
			addr, err := netlink.ParseAddr(second + "/24")
			return errors.Join(err, netlink.AddrDel(l, addr))
		})
	})
	follows("address gone", func() bool { return local() == " 10.0.0.2 127.0.0.1 172.17.0.1 +::1" && !r.has(RoleUplink, eth9) })
	inside(t, n, func() error { return on("docker0", netlink.LinkDel) })
	follows("bridge gone", func() bool { return local() == " 10.0.0.2 127.0.0.1 +::1" })
	for len(reports) > 0 {
		if told := <-reports; !strings.Contains(told, "eth9 was without its program") {
			t.Errorf("reported: %s", told)
		}
	}
}
