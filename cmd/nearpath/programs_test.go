package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/ipam"
)

// TestMarksAgree: the programs mark packets of pods, and the node's rules choose the ENI by the mark.
func TestMarksAgree(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../bpf/c/consts.h")
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]uint64{}
	for _, m := range regexp.MustCompile(`#define (POD_MARK\w*) (0x[0-9a-f]+)\n`).FindAllSubmatch(text, -1) {
		if constants[string(m[1])], err = strconv.ParseUint(string(m[2]), 0, 32); err != nil {
			t.Fatal(err)
		}
	}
	mark, slots := uint32(constants["POD_MARK"]), uint32(constants["POD_MARK_SLOT"])
	if mark == 0 || slots == 0 {
		t.Fatalf("consts.h has %v", constants)
	}
	if hostnet.PodMarkMask != mark|slots {
		t.Errorf("the rules' mask is %#x, that of the programs %#x", uint32(hostnet.PodMarkMask), mark|slots)
	}
	for _, slot := range []uint32{1, 2, slots} {
		if got, want := hostnet.PodMark(int(slot)), mark|slot; got != want {
			t.Errorf("slot %d: the rule asks for %#x, the programs set %#x", slot, got, want)
		}
	}
	if hostnet.OutsideMark&hostnet.PodMarkMask != 0 {
		t.Error("the mark of connections to the outside is in the bits of the slot")
	}
}

// fakeDatapath notes what is on links and in the map.
type fakeDatapath struct {
	links map[string]bool
	pods  map[netip.Addr]bpf.Pod
	order []string

	ports    map[netip.Addr][]service.HostPort
	conflict error
	reports  []string
}

func newFakeDatapath() *fakeDatapath {
	return &fakeDatapath{links: map[string]bool{}, pods: map[netip.Addr]bpf.Pod{}, ports: map[netip.Addr][]service.HostPort{}}
}

func (f *fakeDatapath) kernelPods() *kernelPods {
	report := func(reason, message string) { f.reports = append(f.reports, reason+": "+message) }
	parent := func(index int) (int, error) { return index + 100, nil }
	return &kernelPods{programs: f, pods: f, ports: f, parent: parent, linked: newPodLinks(f, report, slog.New(slog.DiscardHandler)), scopes: newDNSScopes(dnsScopesConfig{}), policy: openGate{}}
}

func (f *fakeDatapath) SetHostPorts(_ context.Context, pod []netip.Addr, ports []service.HostPort) error {
	if f.conflict != nil {
		return f.conflict
	}
	f.order = append(f.order, "ports")
	f.ports[pod[0]] = ports
	return nil
}

func (f *fakeDatapath) HasHostPorts(pod []netip.Addr, ports []service.HostPort) (bool, error) {
	return slices.Equal(f.ports[pod[0]], ports), nil
}

func (f *fakeDatapath) RemoveHostPorts(_ context.Context, pod []netip.Addr) error {
	delete(f.ports, pod[0])
	return nil
}

func (f *fakeDatapath) AttachLink(role bpf.Role, index int, _ ...netip.Addr) error {
	f.links[fmt.Sprint(role, " ", index)] = true
	f.order = append(f.order, "attach")
	return nil
}

func (f *fakeDatapath) DetachLink(role bpf.Role, index int) error {
	delete(f.links, fmt.Sprint(role, " ", index))
	return nil
}

func (f *fakeDatapath) LinkAttached(role bpf.Role, index int) (bool, error) {
	return f.links[fmt.Sprint(role, " ", index)], nil
}

func (f *fakeDatapath) Put(p bpf.Pod) error {
	for _, a := range p.Addrs {
		f.pods[a] = p
	}
	f.order = append(f.order, "put")
	return nil
}

func (f *fakeDatapath) Delete(addrs []netip.Addr) error {
	for _, a := range addrs {
		delete(f.pods, a)
	}
	return nil
}

func (f *fakeDatapath) Lookup(a netip.Addr) (bpf.Pod, bool, error) {
	p, ok := f.pods[a]
	return p, ok, nil
}

// TestKernelPods: each datapath has its programs on the links that are the pod's alone.
func TestKernelPods(t *testing.T) {
	t.Parallel()
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")}
	for _, tt := range []struct {
		entry cni.PodEntry
		want  []string
	}{
		{cni.PodEntry{Datapath: cni.Veth, Link: 7, NetNS: "/gone"}, []string{"pod link 7"}},
		{cni.PodEntry{Datapath: cni.Veth, Link: 7, NetNS: "/gone", ByPackets: true}, []string{"pod link 7"}},
		{cni.PodEntry{Datapath: cni.IPVlan, Link: 8, Slave: 4, NetNS: "/proc/self/ns/net"}, []string{"ipvlan slave 4"}}, // the companion is the host network's
		{cni.PodEntry{Datapath: cni.Exclusive, Link: 9, ENI: 2, Side: 3, NetNS: "/proc/self/ns/net"}, []string{"pod link 9", "exclusive ENI 2"}},
	} {
		t.Run(string(tt.entry.Datapath), func(t *testing.T) {
			t.Parallel()
			f := newFakeDatapath()
			p, e := f.kernelPods(), tt.entry
			e.HostPorts = []cni.HostPort{{HostPort: 8080, ContainerPort: 80, Protocol: 6}}
			e.Addrs, e.NetNSCookie, e.Slot = addrs, 5, 3
			if ok, err := p.Has(t.Context(), e); ok || err != nil {
				t.Errorf("before ADD: %v, %v", ok, err)
			}
			if err := p.Add(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			parent := e.Link
			if e.Datapath == cni.IPVlan {
				parent = e.Link + 100
			}
			if got := f.pods[addrs[1]].Parent; got != parent {
				t.Errorf("the pod's packets come by link %d, want %d", got, parent)
			}
			if got := f.pods[addrs[1]].ByPackets; got != e.ByPackets {
				t.Errorf("by packets: %t, want %t", got, e.ByPackets)
			}
			for _, link := range tt.want {
				if !f.links[link] {
					t.Errorf("no program on %s: %v", link, f.links)
				}
			}
			if len(f.links) != len(tt.want) || f.order[0] != "put" || f.order[len(f.order)-1] != "ports" || f.ports[addrs[0]][0].HostPort != 8080 {
				t.Errorf("programs on %v, done in the order %v", f.links, f.order)
			}
			if ok, err := p.Has(t.Context(), e); !ok || err != nil {
				t.Errorf("after ADD: %v, %v", ok, err)
			}
			for _, spoil := range []func(*bpf.Pod){
				func(b *bpf.Pod) { b.Link++ }, func(b *bpf.Pod) { b.Side++ }, func(b *bpf.Pod) { b.Slot++ }, func(b *bpf.Pod) { b.NetNSCookie++ },
				func(b *bpf.Pod) { b.Parent++ }, func(b *bpf.Pod) { b.ByPackets = !b.ByPackets }, func(b *bpf.Pod) { b.Guarded = !b.Guarded },
			} {
				before := f.pods[addrs[1]]
				other := before
				spoil(&other)
				f.pods[addrs[1]] = other
				if ok, err := p.Has(t.Context(), e); ok || err != nil {
					t.Errorf("with an entry %+v: %v, %v", other, ok, err)
				}
				f.pods[addrs[1]] = before
			}
			lost := f.ports[addrs[0]]
			f.ports[addrs[0]] = nil
			if ok, err := p.Has(t.Context(), e); ok || err != nil {
				t.Errorf("without the host port: %v, %v", ok, err)
			}
			f.ports[addrs[0]] = lost
			for link := range f.links {
				delete(f.links, link)
				if ok, err := p.Has(t.Context(), e); ok || err != nil {
					t.Errorf("without a program on %s: %v, %v", link, ok, err)
				}
				break
			}
			for range 2 {
				if err := p.Remove(t.Context(), e); err != nil || len(f.pods)+len(f.links)+len(f.ports) > 0 {
					t.Errorf("%v; left: %v, %v, %v", err, f.pods, f.links, f.ports)
				}
			}
		})
	}
}

// TestRemoveOfAGonePod: what was in a namespace that is gone is gone with it.
func TestRemoveOfAGonePod(t *testing.T) {
	t.Parallel()
	f := newFakeDatapath()
	f.pods[netip.MustParseAddr("10.0.0.9")] = bpf.Pod{}
	p := f.kernelPods()
	e := cni.PodEntry{Datapath: cni.Exclusive, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, Link: 9, ENI: 2, NetNS: t.TempDir() + "/gone"}
	if err := p.Remove(t.Context(), e); err != nil || len(f.pods) > 0 {
		t.Errorf("%v; left: %v", err, f.pods)
	}
	if err := p.Add(t.Context(), e); err == nil {
		t.Error("ADD into a namespace that is gone succeeds")
	}
	if _, err := p.Has(t.Context(), e); err == nil {
		t.Error("CHECK of a namespace that is gone succeeds")
	}
}

// TestHostPortConflict: the pod is told, and its ADD is to be tried again.
func TestHostPortConflict(t *testing.T) {
	t.Parallel()
	f, addr := newFakeDatapath(), netip.MustParseAddr("10.0.0.9")
	f.conflict = &service.ConflictError{}
	var told []string
	leases := []ipam.Lease{{Pod: ipam.Pod{Name: "other"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.8")}}, {
		Pod: ipam.Pod{Namespace: "shop", Name: "web", UID: "u"}, Addrs: []netip.Addr{addr},
	}}
	p := f.kernelPods()
	p.warn = func(addrs []netip.Addr, reason, _ string) {
		told = append(told, fmt.Sprint(podWith(leases, addrs), " ", reason))
	}
	err := p.Add(t.Context(), cni.PodEntry{Addrs: []netip.Addr{addr}, HostPorts: []cni.HostPort{{HostPort: 80, ContainerPort: 80, Protocol: 6}}})
	var coded *agentapi.CNIError
	if !errors.As(err, &coded) || coded.Code != tryAgainLater || len(told) != 1 || told[0] != "{Pod shop/web u} HostPortConflict" {
		t.Errorf("%v; told %q", err, told)
	}
	if got := podWith(leases[:1], []netip.Addr{addr}); got != (cluster.Object{}) {
		t.Errorf("the pod with an address nobody has is %v", got)
	}
}

// TestPodLinks: programs that somebody removes come back, those of a deleted pod do not.
func TestPodLinks(t *testing.T) {
	t.Parallel()
	f := newFakeDatapath()
	p := f.kernelPods()
	veth := cni.PodEntry{Datapath: cni.Veth, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, Link: 7}
	own := cni.PodEntry{Datapath: cni.Exclusive, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.8")}, Link: 9, ENI: 2, NetNS: "/proc/self/ns/net"}
	vanished := cni.PodEntry{Datapath: cni.Exclusive, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, ENI: 3, NetNS: t.TempDir() + "/gone"}
	for _, e := range []cni.PodEntry{veth, own} {
		if err := p.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	p.linked.remember(vanished)
	p.linked.look()
	if len(f.reports) != 0 || p.linked.failed != "" {
		t.Errorf("with nothing missing: %q, %s", f.reports, p.linked.failed)
	}
	clear(f.links)
	p.linked.look()
	for _, link := range []string{"pod link 7", "pod link 9", "exclusive ENI 2"} {
		if !f.links[link] {
			t.Errorf("no program on %s: %v", link, f.links)
		}
	}
	if want := "[PodProgramsRestored: programs were removed from the links of 2 pods, and are back: [10.0.0.8 10.0.0.9]]"; fmt.Sprint(f.reports) != want {
		t.Errorf("reports %q", f.reports)
	}
	if err := p.Remove(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	clear(f.links)
	p.linked.look()
	if len(f.links) != 1 {
		t.Errorf("after a DEL programs are on %v, want those of the other pod", f.links)
	}
}
