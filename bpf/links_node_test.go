//go:build node

package bpf

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// veth makes a pair of links that are up and stay silent, and returns their indexes.
func veth(t *testing.T, left, right string) (int, int) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: left}, PeerName: right}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{left, right} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	a, b := linkUp(t, left), linkUp(t, right)
	t.Cleanup(func() { _ = netlink.LinkDel(a) })
	return a.Attrs().Index, b.Attrs().Index
}

// runs counts how often a program has run since Linux counts it.
func runs(t *testing.T, p *ebpf.Program) uint64 {
	t.Helper()
	s, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s.RunCount
}

// attached holds a link to having, or not having, the program: by what the datapath says and by a frame that is sent.
func attached(t *testing.T, d *Datapath, role Role, sender, index int, want bool) {
	t.Helper()
	program := d.programs[role][0].program // of ingress
	if got, err := d.LinkAttached(role, index); err != nil || got != want {
		t.Errorf("the link has the program: %v, %v, want %v", got, err, want)
	}
	before := runs(t, program)
	sendFrame(t, sender, ipv4Frame("10.9.0.1"))
	for deadline := time.Now().Add(patience); want && runs(t, program) == before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the program does not see a frame")
		}
	}
	if !want && runs(t, program) != before {
		t.Error("the program sees a frame")
	}
}

func TestAttachLink(t *testing.T) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	for name, tcx := range map[string]bool{"tcx": true, "clsact": false} {
		t.Run(name, func(t *testing.T) {
			cfg := node(t)
			old := start(t, cfg)
			if tcx && !old.tcx {
				t.Log("vm: clsact")
				return // the kernel has no tcx
			}
			if tcx {
				t.Log("vm: tcx")
			}
			old.tcx = tcx
			role := PodLink
			if tcx {
				role = Uplink // those of pods' links are filters on every kernel
			}
			left, right := veth(t, "left", "right")
			attached(t, old, role, left, right, false)
			for range 2 {
				if err := old.AttachLink(role, right); err != nil {
					t.Fatal(err)
				}
				attached(t, old, role, left, right, true)
			}
			d := start(t, cfg)
			d.tcx = tcx
			attached(t, d, role, left, right, false)
			attached(t, old, role, left, right, true)
			if err := d.AttachLink(role, right); err != nil {
				t.Fatal(err)
			}
			attached(t, d, role, left, right, true)
			attached(t, old, role, left, right, false)
			for range 2 {
				if err := d.DetachLink(role, right); err != nil {
					t.Fatal(err)
				}
				attached(t, d, role, left, right, false)
			}
			if err := d.DetachLink(role, 1<<20); err != nil {
				t.Errorf("detach from a link that is not there: %v", err)
			}
		})
	}
}

// TestGoneLink deletes a link under its program: the pin is defunct and goes.
func TestGoneLink(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	if !d.tcx {
		return // filters go with their link
	}
	_, right := veth(t, "left", "right")
	if err := d.AttachLink(Uplink, right); err != nil {
		t.Fatal(err)
	}
	pins := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(cfg.PinDir, layoutVersion, linkDir, "from_outside-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if err := d.SweepLinks(); err != nil || len(pins()) != 1 {
		t.Fatalf("with the link: pins %v, %v", pins(), err)
	}
	// Somebody else's file, the first of all, keeps nothing from being swept, and no agent from starting.
	foreign := filepath.Join(cfg.PinDir, layoutVersion, linkDir, "a-foreign-1")
	if err := d.objs.Pods.Pin(foreign); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(foreign)
	if err := netlink.LinkDel(linkUp(t, "left")); err != nil {
		t.Fatal(err)
	}
	if ok, err := d.LinkAttached(Uplink, right); ok || err != nil {
		t.Errorf("a link that is gone has the program: %v, %v", ok, err)
	}
	if err := d.SweepLinks(); err == nil || !strings.Contains(err.Error(), "a-foreign-1") || len(pins()) != 0 {
		t.Errorf("without the link: pins %v, %v", pins(), err)
	}
	if err := d.Attach(); err != nil {
		t.Errorf("beside somebody else's pin: %v", err)
	}
}

// mark runs from_pod on a frame and returns the mark that the packet leaves with.
func mark(t *testing.T, d *Datapath, frame []byte, before uint32) uint32 {
	t.Helper()
	ctx := skb{Mark: before}
	if _, err := d.packet.FromPod.Run(&ebpf.RunOptions{Data: frame, Context: ctx, ContextOut: &ctx}); err != nil {
		t.Fatal(err)
	}
	return ctx.Mark
}

// skb is the part of struct __sk_buff (linux/bpf.h) that a test reads or sets.
type skb struct {
	Len, PktType, Mark, QueueMapping, Protocol, VLANPresent, VLANTCI, VLANProto, Priority uint32
	IngressIfindex, Ifindex                                                               uint32
	_                                                                                     [37]uint32
}

func TestPodMark(t *testing.T) {
	d := start(t, node(t))
	pod := Pod{Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}, Link: 1, Slot: 7}
	if err := d.Pods.Put(pod); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		frame        []byte
		before, want uint32
	}{
		"a pod's, IPv4":       {ipv4Frame("10.9.0.1"), 0, 0x0807},
		"a pod's, IPv6":       {ipv6Frame("fd09::1"), 0, 0x0807},
		"a mark of the pod's": {ipv4Frame("10.9.0.1"), 0xffff_ffff, 0x0807},
		"somebody else's":     {ipv4Frame("10.9.0.2"), 0x12, 0x12},
		"not IP":              {append(ethernet(0x0806), make([]byte, 28)...), 0x12, 0x12},
	} {
		if got := mark(t, d, tt.frame, tt.before); got != tt.want {
			t.Errorf("%s: mark %#x, want %#x", name, got, tt.want)
		}
	}
	if err := d.Pods.Put(Pod{Addrs: pod.Addrs, Slot: 256}); err == nil {
		t.Error("a slot that does not fit the mark was taken")
	}
}

func TestNodeAddressesAndHostNetworks(t *testing.T) {
	d := start(t, node(t))
	for _, addrs := range [][]netip.Addr{{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, {netip.MustParseAddr("10.0.0.2")}, nil} {
		if err := d.SetNodeAddresses(addrs); err != nil {
			t.Fatal(err)
		}
		var (
			have []netip.Addr
			key  sockAddress
			one  uint8
		)
		for it := d.objs.NodeAddresses.Iterate(); it.Next(&key, &one); {
			have = append(have, address(key.Addr))
		}
		if len(have) != len(addrs) {
			t.Errorf("node addresses are %v, want %v", have, addrs)
		}
	}
	if err := d.SetHostNetworks([]HostNetwork{{netip.MustParsePrefix("0.0.0.0/0"), WayNode}, {netip.MustParsePrefix("10.0.0.0/8"), WayENI}}); err != nil {
		t.Fatal(err)
	}
	if err := d.SetHostNetworks([]HostNetwork{{netip.MustParsePrefix("10.1.0.0/16"), WayNode}, {netip.MustParsePrefix("10.0.0.0/8"), WayENI}}); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]int{"192.0.2.1": -1, "10.0.0.1": 0, "10.1.0.1": 1, "::1": -1} {
		got := -1
		var way uint8
		if err := d.objs.HostNetworks.Lookup(packetNetwork{PrefixBits: 128, Addr: words(netip.MustParseAddr(addr))}, &way); err == nil {
			got = int(way)
		}
		if got != want {
			t.Errorf("the way to %s is %d, want %d", addr, got, want)
		}
	}
}
