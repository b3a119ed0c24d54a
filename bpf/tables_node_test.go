//go:build node

package bpf

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReadWithoutMaps(t *testing.T) {
	if _, err := Read(t.TempDir()); !errors.Is(err, ErrNoMaps) {
		t.Errorf("Read: %v, want %v", err, ErrNoMaps)
	}
	if err := readError("/pins", os.ErrPermission); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v, want that it is not permitted", err)
	}
}

// TestRead reads what an agent that has ended left, and decides by it.
func TestRead(t *testing.T) {
	cfg := node(t)
	d, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web, dns := frontend("10.96.0.1:80", 6), frontend("[fd96::1]:53", 17)
	want := &Tables{
		Frontends: map[Frontend]Target{
			web: {LoadBalancer, 3}, dns: {ClusterIP, 9}, frontend("0.0.0.0:30080", 6): {NodePort, 3}, frontend("10.96.0.1:0", 0): {Kind: ServiceAddress},
		},
		Blocks: map[uint32]Block{
			3: {
				Cluster: addrPorts("10.0.0.1:80", "10.0.0.2:80"), Local: addrPorts("10.0.0.2:80", "10.0.0.4:80"), Draining: addrPorts("10.0.0.3:80"),
				ExternalLocal: true, Affinity: time.Hour, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")},
			},
			9: {Cluster: addrPorts("[fd00::1]:53"), InternalLocal: true, InternalDrop: true, NodeDNS: true},
		},
		NodeAddresses: []NodeAddress{{netip.MustParseAddr("192.0.2.1"), true}, {netip.MustParseAddr("192.0.2.9"), false}},
		Networks:      []HostNetwork{{netip.MustParsePrefix("10.96.0.0/16"), WayService}, {netip.MustParsePrefix("fd96::/112"), WayNode}},
		Pods: []Pod{
			{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, NetNSCookie: 77, Slot: 1, ByPackets: true},
			{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}},
		},
		Host: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
	write(t, d, cfg, want)
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	remember(t, d, "10.0.0.9", 3, "10.0.0.1:80", now, 0)
	remember(t, d, "10.0.0.8", 3, "10.0.0.1:80", now, 1) // of before the affinity was switched off and on again
	want.Affinity = []AffinityEntry{{Client: netip.MustParseAddr("10.0.0.9"), Record: 3, Local: true, Backend: netip.MustParseAddrPort("10.0.0.1:80"), LastUsed: now}}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	got, err := Read(cfg.PinDir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Now < now {
		t.Errorf("read at %s, before the affinity of %s", got.Now, now)
	}
	opts := cmp.Options{
		cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Tables{}, "Now"), cmpopts.IgnoreFields(Pod{}, "Number"),
		cmpopts.SortSlices(func(a, b NodeAddress) bool { return a.Addr.Less(b.Addr) }),
		cmpopts.SortSlices(func(a, b HostNetwork) bool { return a.Prefix.Addr().Less(b.Prefix.Addr()) }),
		cmpopts.SortSlices(func(a, b Pod) bool { return a.Addrs[0].Less(b.Addrs[0]) }),
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("what was read (-written +read):\n%s", diff)
	}
	v := got.Decide(Question{Client: netip.MustParseAddr("10.0.0.9"), To: web.Addr, Protocol: 6, Inside: true})
	if v.Decision != Forward || !v.Remembered || len(v.Backends) != 1 {
		t.Errorf("a client that has a backend: %+v", v)
	}
	if entries, err := os.ReadDir(filepath.Join(cfg.PinDir, layoutVersion, linkDir)); err != nil || len(entries) != 0 {
		t.Errorf("reading attached something: %v, %v", entries, err)
	}
}

// write makes the maps those of the Tables, but for affinity.
func write(t *testing.T, d *Datapath, cfg Config, tables *Tables) {
	t.Helper()
	var errs []error
	for record, b := range tables.Blocks {
		errs = append(errs, d.Services.Publish(record, Block{}), d.Services.Publish(record, b))
	}
	for f, target := range tables.Frontends {
		errs = append(errs, d.Services.PutFrontend(f, target.Kind, target.Record))
	}
	var addrs, portless []netip.Addr
	for _, n := range tables.NodeAddresses {
		if n.NodePorts {
			addrs = append(addrs, n.Addr)
		} else {
			portless = append(portless, n.Addr)
		}
	}
	errs = append(errs, d.SetNodeAddresses(addrs, portless...), d.SetHostNetworks(tables.Networks))
	for _, p := range tables.Pods {
		errs = append(errs, d.Pods.Put(p))
	}
	errs = append(errs, d.Pods.PutHost(cfg.HostNetNSCookie, tables.Host[0], tables.Host[1]))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// remember puts an entry of a client, of the local list, by an epoch that is so much older than the block's.
func remember(t *testing.T, d *Datapath, client string, record uint32, backend string, used time.Duration, older uint32) {
	t.Helper()
	_, epoch := d.Services.affinity(record)
	to := netip.MustParseAddrPort(backend)
	key := sockAffinityKey{Client: words(netip.MustParseAddr(client)), Record: record, Local: 1}
	value := sockAffinity{Backend: words(to.Addr()), Port: swap16(to.Port()), LastUsed: uint64(used), Epoch: epoch - older}
	if err := d.Affinity.entries.Put(key, value); err != nil {
		t.Fatal(err)
	}
}
