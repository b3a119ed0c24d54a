//go:build node

package hostnet

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
)

// An ENI that is ours but not wanted is none of the node's ways outside, whatever default route it gets: it is not an
// uplink, the route is deleted, and its drop-ins are there until it is forgotten.
func TestKnownENIIsNoUplink(t *testing.T) {
	n := node(t)
	var eth0, spare int
	inside(t, n, func() error {
		err := errors.Join(addVeth("spare", otherMAC, 1500), up("spare"), address("spare", "10.77.0.2/24"))
		eth0, spare = indexOf(t, "eth0"), indexOf(t, "spare")
		return err
	})
	root := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(root, "run/systemd/netif"), 0o755))
	bus(t, root, dbusReturn)
	var forgotten atomic.Bool
	known := func() []string {
		if forgotten.Load() {
			return []string{""}
		}
		return []string{"", otherMAC, eniMAC}
	}
	r := &recorder{}
	h := started(t, Config{NetNS: n.Path(), Programs: r, Log: discard(), Unmanage: root, ENIs: known})
	eventually(t, "attached", func() bool { return r.has(RoleUplink, eth0) })
	inside(t, n, func() error { return foreignDefault("spare", "10.77.0.253")(nil) }) // of metric 10
	gone := func() (gone bool) {
		inside(t, n, func() error {
			return on("spare", func(l netlink.Link) error { gone = defaultsBy(t, l) == 0; return nil })
		})
		return gone
	}
	eventually(t, "route deleted", gone)
	if r.has(RoleUplink, spare) || slices.Contains(h.Addrs(), netip.MustParseAddr("10.77.0.2")) {
		t.Errorf("taken for an uplink; the node's addresses are %v", h.Addrs())
	}
	inside(t, n, func() error {
		return on("spare", func(l netlink.Link) error {
			if l.Attrs().Group == LinkGroup {
				t.Error("in the group of the uplinks")
			}
			return nil
		})
	})
	// So it is between the end of its use and its detaching.
	mustEnsure(t, h, ENI{MAC: otherMAC, Slot: 2, Nets: theENI().Nets})
	check(t, h.RemoveENI(t.Context(), otherMAC))
	inside(t, n, func() error { return foreignDefault("spare", "10.77.0.253")(nil) })
	eventually(t, "route deleted", gone)
	if have, err := ownDropIns(root); err != nil || len(have) != 5 {
		t.Errorf("drop-ins %v, %v", have, err)
	}
	forgotten.Store(true)
	h.Refresh()
	if have, err := ownDropIns(root); err != nil || len(have) != 1 {
		t.Errorf("drop-ins %v, %v", have, err)
	}
}

func defaultsBy(t *testing.T, l netlink.Link) (n int) {
	t.Helper()
	routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
	check(t, err)
	for _, r := range routes {
		if isDefault(r.Dst) {
			n++
		}
	}
	return n
}
