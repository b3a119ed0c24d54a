//go:build node

package cni

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// A street is a pod with its ways, and who is at their ends.
type street struct {
	pod, node *netlab.NetNS
	shaper    *LinkShaper
	shaped    Shaped
	ways      []way
}

// A way is a link of the pod and the machine at its other end, with addresses of both families.
type way struct {
	peer       *netlab.NetNS
	there, pod [2]string
}

// newStreet wires a pod as far as limits care: with Veth one way to the node, with Exclusive another one past it.
func newStreet(t *testing.T, d Datapath) *street {
	t.Helper()
	lab := must[*netlab.Lab](t)(netlab.New("npbw"))
	t.Cleanup(func() { check0(t, lab.Close()) })
	s := &street{pod: must[*netlab.NetNS](t)(lab.NetNS("pod")), node: must[*netlab.NetNS](t)(lab.NetNS("node"))}
	s.shaper = must[*LinkShaper](t)(NewShaper(s.node.Path()))
	t.Cleanup(func() { check0(t, s.shaper.Close()) })
	s.shaped = shapedAs(d, Limits{})
	s.shaped.NetNS = s.pod.Path()
	if d == Exclusive {
		vpc := must[*netlab.NetNS](t)(lab.NetNS("vpc"))
		s.ways = []way{s.pave(t, vpc, "eni", s.shaped.PodLink, 1), s.pave(t, s.node, s.shaped.HostLink, s.shaped.SideLink, 2)}
		return s
	}
	s.ways = []way{s.pave(t, s.node, s.shaped.HostLink, s.shaped.PodLink, 1)}
	return s
}

// pave makes a pair of links between the peer and the pod.
func (s *street) pave(t *testing.T, peer *netlab.NetNS, there, here string, n int) way {
	t.Helper()
	w := way{peer, [2]string{fmt.Sprintf("10.77.%d.1", n), fmt.Sprintf("fd77:%d::1", n)}, [2]string{fmt.Sprintf("10.77.%d.2", n), fmt.Sprintf("fd77:%d::2", n)}}
	check0(t, peer.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = there
		veth := netlink.NewVeth(attrs)
		veth.PeerName = here
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		pod := openNS(t, s.pod)
		defer pod.Close()
		return withLink(here, func(l netlink.Link) error { return netlink.LinkSetNsFd(l, int(pod.Fd())) })
	}))
	check0(t, peer.Do(func() error { return dress(there, w.there) }))
	check0(t, s.pod.Do(func() error { return dress(here, w.pod) }))
	return w
}

// dress gives a link addresses and brings it up.
func dress(link string, addrs [2]string) error {
	for i, bits := range []int{24, 64} {
		prefix := netip.PrefixFrom(netip.MustParseAddr(addrs[i]), bits)
		err := withLink(link, func(l netlink.Link) error { return netlink.AddrAdd(l, AddAddress{Addr: prefix}.address()) })
		if err != nil {
			return err
		}
	}
	return withLink(link, netlink.LinkSetUp)
}

func (s *street) limit(t *testing.T, limits Limits) {
	t.Helper()
	s.shaped.Limits = limits
	check0(t, s.shaper.Shape(t.Context(), s.shaped))
	check0(t, s.shaper.Verify(t.Context(), s.shaped))
}

// A flow is a connection over which as much is sent as goes.
type flow struct {
	got  atomic.Int64 // bytes that have arrived
	fail atomic.Pointer[error]
}

// start opens a flow. It ends with the test.
func start(t *testing.T, from, to *netlab.NetNS, addr string) *flow {
	t.Helper()
	var l net.Listener
	check0(t, to.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	}))
	defer l.Close()
	var sender net.Conn
	check0(t, from.Do(func() (err error) {
		sender, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	}))
	receiver := must[net.Conn](t)(l.Accept())
	f, done := &flow{}, make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		for chunk := make([]byte, 1<<17); ; {
			if _, err := sender.Write(chunk); err != nil {
				f.failed(err)
				return
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for chunk := make([]byte, 1<<18); ; {
			n, err := receiver.Read(chunk)
			f.got.Add(int64(n))
			if err != nil {
				f.failed(err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		sender.Close()
		receiver.Close()
		<-done
		<-done
	})
	return f
}

func (f *flow) failed(err error) {
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		f.fail.CompareAndSwap(nil, &err)
	}
}

// patience is how long a flow may take to reach what it may have; a busy machine needs some of it.
const patience = 30 * time.Second

// wantRate watches flows that share a limit, which was set before they began. What has arrived is at no time more than
// the bucket's arithmetic allows, however late somebody looks: the rate times the time, and a burst. And in one of the
// spells of two seconds it is most of that, if not in the first. It returns the share of the limit that came over then.
func wantRate(t *testing.T, began time.Time, bits uint64, flows ...*flow) float64 {
	t.Helper()
	b := bucketOf(bits, 1500)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for spell, before := began, int64(0); ; <-tick.C {
		got := arrived(t, flows)
		now := time.Now()
		if allowed := 1.01*float64(b.rate)*now.Sub(began).Seconds() + float64(b.burst()); float64(got) > allowed {
			t.Fatalf("%d bytes after %v, of which %d bit/s allow %.0f", got, now.Sub(began), bits, allowed)
		}
		took := now.Sub(spell)
		if took < 2*time.Second {
			continue
		}
		share := float64(got-before) / float64(b.rate) / took.Seconds()
		if share >= 0.8 {
			return share
		}
		t.Logf("%v: %.1f %% of %d bit/s", took, 100*share, bits)
		if spell, before = now, got; now.Sub(began) > patience {
			t.Fatalf("no more than that in %v", patience)
		}
	}
}

// arrived is the sum over flows, none of which may have broken.
func arrived(t *testing.T, flows []*flow) (sum int64) {
	t.Helper()
	for i, f := range flows {
		if err := f.fail.Load(); err != nil {
			t.Fatalf("connection %d broke: %v", i, *err)
		}
		sum += f.got.Load()
	}
	return sum
}

func TestLimits(t *testing.T) {
	for _, d := range []Datapath{Veth, Exclusive} {
		t.Run(string(d), func(t *testing.T) { testLimits(t, newStreet(t, d)) })
	}
}

// testLimits holds a pod to different limits in both directions, by all its ways and in both families at once.
func testLimits(t *testing.T, s *street) {
	t.Helper()
	limits := Limits{Ingress: 20_000_000, Egress: 50_000_000}
	s.limit(t, limits)
	for dir, bits := range map[direction]uint64{inwards: limits.Ingress, outwards: limits.Egress} {
		t.Run(string(dir), func(t *testing.T) {
			began := time.Now()
			var flows []*flow
			for _, w := range s.ways {
				for family := range 2 {
					if dir == inwards {
						flows = append(flows, start(t, w.peer, s.pod, w.pod[family]))
					} else {
						flows = append(flows, start(t, s.pod, w.peer, w.there[family]))
					}
				}
			}
			t.Logf("%.1f %% of %d Mbit/s", 100*wantRate(t, began, bits, flows...), bits/1_000_000)
			for i, f := range flows {
				if f.got.Load() == 0 {
					t.Errorf("connection %d got nothing", i)
				}
			}
		})
	}
}

// TestLimitsWhileTrafficFlows raises and lowers the limits below a connection in each direction. Neither breaks, each gets
// what the new limit allows, and parameters of a bucket change without a new one.
func TestLimitsWhileTrafficFlows(t *testing.T) {
	for _, d := range []Datapath{Veth, Exclusive} {
		t.Run(string(d), func(t *testing.T) {
			s := newStreet(t, d)
			s.limit(t, Limits{Ingress: 10_000_000, Egress: 10_000_000})
			w := s.ways[0]
			in, out := start(t, w.peer, s.pod, w.pod[0]), start(t, s.pod, w.peer, w.there[0])
			for _, step := range []struct {
				bits uint64
				what string
			}{
				{10_000_000, "the same"}, {400_000_000, "raised"}, {100_000_000, "lowered"}, {2_000_000, "lowered to where packets are cut up"},
				{500_000_000, "raised much"}, {5_000_000, "lowered much"},
			} {
				before := s.roots(t)
				s.limit(t, Limits{Ingress: step.bits, Egress: step.bits})
				if now := s.roots(t); step.bits != 2_000_000 && step.bits != 5_000_000 {
					for dev, r := range now {
						if r.handle != before[dev].handle {
							t.Errorf("%s: %v has a new bucket", step.what, dev)
						}
					}
				}
				wantFlowing(t, step.what, step.bits, in, out)
			}
			s.limit(t, Limits{})
			wantFlowing(t, "no limit", 600_000_000, in, out)
		})
	}
}

// wantFlowing waits until each flow has moved what half its limit allows in a quarter of a second, by when what waited in
// queues at the time of the change is through. No more than 100 Mbit/s is asked of the machine.
func wantFlowing(t *testing.T, what string, bits uint64, flows ...*flow) {
	t.Helper()
	const window = 250 * time.Millisecond
	want := int64(float64(min(bits, 100_000_000)) / 8 / 2 * window.Seconds())
	reached, before := make([]bool, len(flows)), make([]int64, len(flows))
	for began := time.Now(); slices.Contains(reached, false); {
		for i, f := range flows {
			before[i] = f.got.Load()
		}
		time.Sleep(window) // the measurement itself
		for i, f := range flows {
			if err := f.fail.Load(); err != nil {
				t.Fatalf("%s: connection %d broke: %v", what, i, *err)
			}
			reached[i] = reached[i] || f.got.Load()-before[i] >= want
		}
		if time.Since(began) > patience {
			t.Fatalf("%s: of the connections, %v have reached half of %d bit/s", what, reached, bits)
		}
	}
}

// roots are the buckets there are.
func (s *street) roots(t *testing.T) map[device]root {
	t.Helper()
	pod := openNS(t, s.pod)
	defer pod.Close()
	return must[shaping](t)(namespaces{s.shaper.host, pod}.readShaping(s.shaped)).roots
}

// TestVerifyLimits takes every part of a shaped pod away, one after another: Verify names it and Shape puts it back. In the
// end nothing is left.
func TestVerifyLimits(t *testing.T) {
	for _, d := range []Datapath{Veth, Exclusive} {
		t.Run(string(d), func(t *testing.T) {
			s := newStreet(t, d)
			limits := Limits{Ingress: 10_000_000, Egress: 1_000_000}
			s.limit(t, limits)
			for _, broken := range s.breakages() {
				check0(t, broken.do())
				err := s.shaper.Verify(t.Context(), s.shaped)
				if err == nil || !strings.Contains(err.Error(), broken.want) {
					t.Errorf("%s: %v", broken.want, err)
				}
				s.limit(t, limits)
			}
			s.limit(t, Limits{})
			for _, ns := range []*netlab.NetNS{s.pod, s.node} {
				check0(t, ns.Do(func() error { return wantUnshaped(t) }))
			}
		})
	}
}

type breakage struct {
	want string
	do   func() error
}

func (s *street) breakages() []breakage {
	in := func(ns *netlab.NetNS, f func() error) func() error { return func() error { return ns.Do(f) } }
	delRoot := func(link string) func() error { return func() error { return withLink(link, deleteBucket) } }
	if s.shaped.Datapath == Veth {
		return []breakage{
			{"host: tc qdisc replace dev np0 root", in(s.node, delRoot("np0"))},
			{"pod: tc qdisc replace dev eth0 root", in(s.pod, delRoot("eth0"))},
			{"pod: tc qdisc replace dev eth0 root handle 6e71: tbf rate 1000000bit", in(s.pod, func() error {
				return shapeOne(SetBucket{InPod, "eth0", handleOurs, true, bucketOf(50_000_000, 1500)})
			})},
		}
	}
	return []breakage{
		{"pod: tc qdisc replace dev npin root", in(s.pod, delRoot("npin"))},
		{"pod: tc filter add dev npside ingress", in(s.pod, func() error { return shapeOne(DeleteRedirect{"npside", inwards}) })},
		{"pod: tc filter del dev eth0 egress", in(s.pod, func() error { return shapeOne(DeleteIFB{"npout"}) })},
		{"pod: ip link set dev npin up", in(s.pod, func() error { return withLink("npin", netlink.LinkSetDown) })},
	}
}

// wantUnshaped runs in a namespace of which every link has the queue that the kernel gave it.
func wantUnshaped(t *testing.T) error {
	t.Helper()
	links, err := netlinksafe.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() == "ifb" && strings.HasPrefix(l.Attrs().Name, "np") {
			t.Errorf("%s is left", l.Attrs().Name)
		}
		for _, parent := range hookParents {
			if filters, err := netlinksafe.FilterList(l, parent); err != nil || len(filters) > 0 {
				t.Errorf("%s: filters %v are left (%v)", l.Attrs().Name, filters, err)
			}
		}
	}
	qdiscs, err := netlinksafe.QdiscList(nil)
	for _, q := range qdiscs {
		if q.Type() == "tbf" {
			t.Errorf("%+v is left", q)
		}
	}
	return err
}

// TestShapeWithoutAPod: limits that go with their pod are no error, limits without a pod are.
func TestShapeWithoutAPod(t *testing.T) {
	s := newStreet(t, Veth)
	for _, path := range []string{"", "/run/netns/npbw-none"} {
		s.shaped.NetNS = path
		s.shaped.Limits = Limits{}
		if err := s.shaper.Shape(t.Context(), s.shaped); err != nil {
			t.Errorf("%q: %v", path, err)
		}
		s.shaped.Limits = Limits{Egress: 10_000_000}
		if err := s.shaper.Shape(t.Context(), s.shaped); err == nil {
			t.Errorf("%q: limited", path)
		}
	}
}

func openNS(t *testing.T, n *netlab.NetNS) ns.NetNS {
	t.Helper()
	return must[ns.NetNS](t)(ns.GetNS(n.Path()))
}
