package cni

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const ownNetNS = "/proc/self/ns/net"

func ownInode(t *testing.T) uint64 {
	t.Helper()
	inode, there, err := namespaceAt(ownNetNS)
	if err != nil || !there {
		t.Fatalf("%v, %v", there, err)
	}
	return inode
}

// A pod that has a record lives as long as its namespace, whatever has become of its link on the node.
func TestOrphanWithoutLink(t *testing.T) {
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*record)
		gone   bool
	}{
		"there":                 {func(r *record) { r.Inode = ownInode(t) }, false},
		"cannot be told":        {func(r *record) { r.NetNS = loop }, false},
		"another namespace":     {func(r *record) { r.Inode = ownInode(t) + 1 }, true},
		"no longer a namespace": {func(r *record) { r.NetNS = t.TempDir() }, true},
		"no such file":          {func(r *record) { r.NetNS = "/run/netns/of-nobody" }, true},
		"no such directory":     {func(r *record) { r.NetNS = "/proc/self/stat/ns/net" }, true},
	} {
		for _, datapath := range datapaths {
			a := attached{
				wiring: wiringOf(datapath, "10.0.0.1"), leased: true, recorded: true,
				record: record{NetNS: ownNetNS, Datapath: datapath, Link: 7},
			}
			tt.change(&a.record)
			if got := len(orphans([]attached{a}, nil)) == 1; got != tt.gone {
				t.Errorf("%s: %s: orphan %v", name, datapath, got)
			}
		}
	}
}

// Somebody who deletes the link of a pod that is there is told of, once for as long as it is so.
func TestUnlinkedIsTold(t *testing.T) {
	var reports []string
	s := newTestServer(t, Config{Report: func(reason, _ string) { reports = append(reports, reason) }})
	c, now := NewCollector(s, 0), time.Now()
	var known []attached
	for i, datapath := range []Datapath{Veth, Exclusive, IPVlan, Veth} {
		w := wiringOf(datapath, "10.0.0.1")
		w.Key.ContainerID = fmt.Sprint("c", i)
		known = append(known, attached{wiring: w, recorded: true, record: record{NetNS: ownNetNS, Inode: ownInode(t), Link: 7}})
	}
	known[3].record.Link = 0 // an ADD is at work on it
	for _, later := range []time.Duration{0, secondLook - 1, secondLook, 2 * secondLook} {
		c.tellUnlinked(now.Add(later), known, hostState{})
	}
	if !slices.Equal(reports, []string{"PodLinkDeleted", "PodLinkDeleted"}) {
		t.Errorf("reports are %v", reports)
	}
}

// serverWithRecord has one attachment of ipvlan, leased and recorded.
func serverWithRecord(t *testing.T, change func(*record)) (*Server, Key) {
	t.Helper()
	s := newTestServer(t, Config{Records: filepath.Join(t.TempDir(), "pods")})
	r := recordOfEverything()
	lease, err := s.config.Addresses.Acquire(t.Context(), Attachment{Key: r.Key}, false)
	if err != nil {
		t.Fatal(err)
	}
	r.Addrs = lease.Addrs
	change(&r)
	if err := s.records.write(r); err != nil {
		t.Fatal(err)
	}
	return s, r.Key
}

// A pod whose record cannot be read may well run: its address is not given away.
func TestBrokenRecordIsNoOrphan(t *testing.T) {
	s, k := serverWithRecord(t, func(*record) {})
	breakRecord(t, s.records, k)
	known, err := s.attached()
	if err == nil || len(known) != 1 || len(orphans(known, nil)) != 0 {
		t.Errorf("%v, orphans of %+v: %v", err, known, orphans(known, nil))
	}
	if err := NewCollector(s, 0).collect(t.Context(), k); err != nil {
		t.Error(err)
	}
	if _, leased := s.config.Addresses.Lookup(k); !leased {
		t.Error("the lease is given up")
	}
	if err := s.records.remove(k); err != nil {
		t.Fatal(err)
	}
	if known, _ = s.attached(); len(orphans(known, nil)) != 1 {
		t.Error("without a record it is no orphan")
	}
}

// DEL fails, to be asked again, when it cannot tell whether the pod is gone.
func TestDelKeepsWhatMayBeThere(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	s, k := serverWithRecord(t, func(r *record) { r.NetNS = loop })
	if err := s.remove(context.Background(), Attachment{Key: k}); err == nil {
		t.Error("no error")
	}
	if _, leased := s.config.Addresses.Lookup(k); !leased || !s.records.has(k) {
		t.Error("the lease or the record is given up")
	}
	for _, path := range []string{filepath.Join(dir, "nothing"), dir} {
		n, entry, err := s.approach(Attachment{Key: k, NetNS: path}, record{}, false)
		if n.pod != nil || entry.NetNS != "" || err != nil {
			t.Errorf("%s: %+v, %v", path, entry, err)
		}
	}
}

// An ENI is known by its permanent address where there is one, and otherwise by the address and the index.
func TestIsENI(t *testing.T) {
	own, other := parsedMAC(t)(net.ParseMAC(mac(1))), parsedMAC(t)(net.ParseMAC(mac(2)))
	device := func(now, permanent net.HardwareAddr, index int) netlink.Link {
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{HardwareAddr: now, PermHWAddr: permanent, Index: index}}
	}
	for name, tt := range map[string]struct {
		link  netlink.Link
		index int
		want  bool
	}{
		"permanent":                 {device(own, own, 3), 3, true},
		"changed by the pod":        {device(other, own, 3), 3, true},
		"another device that poses": {device(own, other, 4), 0, false},
		"without a permanent one":   {device(own, nil, 3), 3, true},
		"index is not known":        {device(own, nil, 3), 0, true},
		"made by the pod":           {device(own, nil, 4), 3, false},
		"stacked":                   {&netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{HardwareAddr: own}}, 0, false},
		"another":                   {device(other, nil, 3), 3, false},
	} {
		if got := isENI(tt.link, own, tt.index); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	posing, real := device(own, nil, 2), device(other, own, 3)
	if got := pickENI([]netlink.Link{posing, real}, own, 0); got != real {
		t.Errorf("picked %+v", got)
	}
	if got := addressOfENI(real.Attrs()); got.String() != own.String() {
		t.Errorf("address to restore is %s", got)
	}
}

func parsedMAC(t *testing.T) func(net.HardwareAddr, error) net.HardwareAddr {
	t.Helper()
	return func(mac net.HardwareAddr, err error) net.HardwareAddr {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return mac
	}
}
