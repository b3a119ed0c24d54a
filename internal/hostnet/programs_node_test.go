//go:build node

package hostnet

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A recorder stands in for the datapath.
type recorder struct {
	mu       sync.Mutex
	attached map[Attachment]bool
	addrs    []netip.Addr
	networks []HostNetwork
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

func (r *recorder) SetNode(addrs []netip.Addr, networks []HostNetwork) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addrs, r.networks = addrs, networks
	return nil
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

// Uplinks have their program, and have it back within a second when somebody takes it off.
func TestProgramsAreKept(t *testing.T) {
	n := node(t)
	var eth0, eth5 int
	inside(t, n, func() error {
		eth0, eth5 = indexOf(t, "eth0"), indexOf(t, "eth5")
		return nil
	})
	r := &recorder{}
	h := started(t, Config{NetNS: n.Path(), Programs: r, Log: discard(), HostNetworks: prefixes("10.200.0.0/16")})
	mustEnsure(t, h, theENI())
	eventually(t, "attached", func() bool { return r.has(RoleUplink, eth0) })
	if r.has(RoleUplink, eth5) || r.has(RoleIPVlanParent, eth5) {
		t.Error("the ENI has a program that it needs not")
	}
	want := netip.MustParseAddr("10.0.0.2")
	if !slices.Equal(r.addrs, []netip.Addr{want}) || !slices.Equal(h.Addrs(), r.addrs) {
		t.Errorf("addresses %v and %v, want %s", r.addrs, h.Addrs(), want)
	}
	if networks := []HostNetwork{{netip.PrefixFrom(want, 32), true}, {netip.MustParsePrefix("10.200.0.0/16"), true}}; !slices.Equal(r.networks, networks) {
		t.Errorf("networks %v, want %v", r.networks, networks)
	}
	start := time.Now()
	check(t, r.Detach(RoleUplink, eth0))
	eventually(t, "attached again", func() bool { return r.has(RoleUplink, eth0) })
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
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
