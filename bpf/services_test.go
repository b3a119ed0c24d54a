package bpf

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func addrPorts(addrs ...string) (out []netip.AddrPort) {
	for _, a := range addrs {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

var cmpAddrs = cmp.Options{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()}

func TestBlockRoundTrip(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		block Block
		cells int
	}{
		"empty":          {Block{}, 3},
		"empty, dropped": {Block{InternalLocal: true, InternalDrop: true}, 3},
		"v4":             {Block{Cluster: addrPorts("10.0.0.1:80", "10.0.0.2:81")}, 5},
		"v6":             {Block{Cluster: addrPorts("[fd00::1]:80", "[fd00::2]:443")}, 9},
		"local in cluster": {Block{
			Cluster: addrPorts("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"), Local: addrPorts("10.0.0.2:80"),
		}, 6},
		"local is not":    {Block{Cluster: addrPorts("10.0.0.1:80"), Local: addrPorts("10.0.0.9:80"), InternalLocal: true}, 5},
		"local in part":   {Block{Cluster: addrPorts("10.0.0.1:80", "10.0.0.8:80"), Local: addrPorts("10.0.0.8:80", "10.0.0.9:80")}, 6},
		"only local":      {Block{Local: addrPorts("[fd00::9]:80"), InternalLocal: true}, 6},
		"draining":        {Block{Cluster: addrPorts("10.0.0.2:80"), Draining: addrPorts("10.0.0.1:80", "10.0.0.3:80")}, 6},
		"only draining":   {Block{Draining: addrPorts("[fd00::9]:80")}, 6},
		"same, two ports": {Block{Cluster: addrPorts("10.0.0.1:80", "10.0.0.1:256")}, 5},
		"affinity":        {Block{Cluster: addrPorts("10.0.0.1:80"), Affinity: 3 * time.Hour}, 4},
		"external": {Block{
			Cluster: addrPorts("10.0.0.1:80"), Local: addrPorts("10.0.0.1:80"), ExternalLocal: true, ExternalDrop: true,
		}, 4},
		"node DNS": {Block{Cluster: addrPorts("10.0.0.1:53"), NodeDNS: true}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cells, err := encodeBlock(7, 1, tt.block)
			if err != nil {
				t.Fatal(err)
			}
			if len(cells) != tt.cells || blockCells(cells) != uint32(tt.cells) {
				t.Errorf("block takes %d cells and says %d, want %d", len(cells), blockCells(cells), tt.cells)
			}
			if diff := cmp.Diff(tt.block, decodeBlock(cells), cmpAddrs); diff != "" {
				t.Errorf("decoded block differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBlockRefusesMixedFamilies(t *testing.T) {
	t.Parallel()
	if _, err := encodeBlock(1, 1, Block{Cluster: addrPorts("10.0.0.1:80", "[fd00::1]:80")}); err == nil {
		t.Error("a block of two families was accepted")
	}
}

// TestFreeCells takes and gives at random and compares with a plain set of cells.
func TestFreeCells(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const size = 200
		f := free{{at: 1, n: size - 1}}
		var used []extent
		owner := make([]int, size)
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(used) > 0 && rapid.Bool().Draw(t, "give") {
				i := rapid.IntRange(0, len(used)-1).Draw(t, "which")
				for c := used[i].at; c < used[i].at+used[i].n; c++ {
					owner[c] = 0
				}
				f.give(used[i])
				used = append(used[:i], used[i+1:]...)
				continue
			}
			n := uint32(rapid.IntRange(1, 40).Draw(t, "n"))
			at, ok := f.take(n)
			if !ok {
				continue
			}
			for c := at; c < at+n; c++ {
				if owner[c] != 0 {
					t.Fatalf("cell %d was handed out twice", c)
				}
				owner[c] = step + 1
			}
			used = append(used, extent{at, n})
		}
		checkFree(t, f, used, size)
	})
}

func checkFree(t *rapid.T, f free, used []extent, size uint32) {
	taken := uint32(0)
	for _, e := range used {
		taken += e.n
	}
	if f.cells()+taken != size-1 {
		t.Fatalf("%d free and %d used cells of %d", f.cells(), taken, size-1)
	}
	for i := 1; i < len(f); i++ {
		if f[i-1].at+f[i-1].n >= f[i].at {
			t.Fatalf("free extents are not sorted and apart: %v", f)
		}
	}
	adopted := free{{at: 1, n: size - 1}}
	adopted.remove(used)
	if diff := cmp.Diff(f, adopted, cmp.AllowUnexported(extent{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("adopting the used cells gives other free cells (-kept +adopted):\n%s", diff)
	}
}

func TestAddressForm(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"10.1.2.3", "::1", "fd00::1:2", "0.0.0.0", "255.255.255.255"} {
		addr := netip.MustParseAddr(a)
		if got := address(words(addr)); got != addr {
			t.Errorf("%s comes back as %s", addr, got)
		}
	}
	if swap16(swap16(0x1234)) != 0x1234 {
		t.Error("swap16 is not its own inverse")
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	s := &Services{blocks: make([]uint64, 64), have: map[uint32]extent{}}
	at := uint32(1)
	for record, b := range []Block{
		{Cluster: addrPorts("10.0.0.1:80", "10.0.0.2:80"), Local: addrPorts("10.0.0.3:80")}, {},
		{Cluster: addrPorts("[fd00::1]:80", "[fd00::2]:80")},
	} {
		cells, err := encodeBlock(uint32(record), 1, b)
		if err != nil {
			t.Fatal(err)
		}
		copy(s.blocks[at:], cells)
		s.have[uint32(record)] = extent{at, uint32(len(cells))}
		at += uint32(len(cells))
	}
	ask := []netip.Addr{
		netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.4"),
		netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::3"), netip.MustParseAddr("::1"),
	}
	want := map[netip.Addr]bool{ask[0]: true, ask[1]: true, ask[3]: true}
	if got := s.Named(ask); !maps.Equal(got, want) {
		t.Errorf("named %v, want %v", got, want)
	}
}
