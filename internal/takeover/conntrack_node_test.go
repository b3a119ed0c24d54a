//go:build node

package takeover

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestTranslated: what conntrack translates is found by both of its ends, and nothing else is.
func TestTranslated(t *testing.T) {
	l := newLane(t)
	l.serve(t)
	l.program(t, "nftables", "ACCEPT")
	l.talks(t)
	direct, err := l.dial("tcp", "10.2.0.2:8080", l.client)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	l.do(t, l.node, func() error {
		got, err := translated()
		if err != nil {
			return err
		}
		want := map[[2]string]int{}
		for _, f := range families {
			want[[2]string{netip.AddrPortFrom(netip.MustParseAddr(f.vip), 80).String(), netip.AddrPortFrom(netip.MustParseAddr(f.backend), 8080).String()}] = 2
			want[[2]string{netip.AddrPortFrom(netip.MustParseAddr(f.vip), 53).String(), netip.AddrPortFrom(netip.MustParseAddr(f.backend), 8053).String()}] = 2
		}
		for c := range got {
			want[[2]string{c.frontend.String(), c.backend.String()}]--
			if !c.client.IsValid() || c.client.Port() == 0 {
				t.Errorf("connection without a client: %+v", c)
			}
		}
		for ends, n := range want {
			if n != 0 {
				t.Errorf("from %s to %s: %d connections are missing", ends[0], ends[1], n)
			}
		}
		return nil
	})
}

// TestBigTable: reading a table of many entries holds none of them.
func TestBigTable(t *testing.T) {
	const entries = 20_000
	l := newLane(t)
	l.program(t, "nftables", "ACCEPT")
	l.do(t, l.node, func() error {
		for i := range entries {
			client, server := []byte{10, 9, byte(i >> 8), byte(i)}, []byte{10, 8, 0, 1}
			if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
				FamilyType: unix.AF_INET, TimeOut: 100, ProtoInfo: &netlink.ProtoInfoTCP{State: 1},
				Forward: netlink.IPTuple{Protocol: unix.IPPROTO_TCP, SrcIP: client, DstIP: server, SrcPort: 1000, DstPort: 80},
				Reverse: netlink.IPTuple{Protocol: unix.IPPROTO_TCP, SrcIP: server, DstIP: client, SrcPort: 80, DstPort: 1000},
			}); err != nil {
				return err
			}
		}
		seen, most := 0, uint64(0)
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		before := stats.HeapAlloc
		if err := eachEntry(func([]byte) {
			if seen++; seen%(entries/4) == 0 {
				runtime.GC()
				runtime.ReadMemStats(&stats)
				most = max(most, stats.HeapAlloc)
			}
		}); err != nil {
			return err
		}
		if seen < entries {
			t.Errorf("%d entries were seen of %d", seen, entries)
		}
		if held := int64(most) - int64(before); held > 1<<20 {
			t.Errorf("%d bytes were held while %d entries were read", held, entries)
		}
		return nil
	})
}
