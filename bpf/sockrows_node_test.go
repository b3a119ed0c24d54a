//go:build node

package bpf

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dialFrom connects from a local address, any if it is "", and returns what it comes to.
func dialFrom(t *testing.T, local, to string) error {
	t.Helper()
	d := net.Dialer{Timeout: 2 * time.Second}
	if local != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
	}
	c, err := d.Dial("tcp", to)
	if err == nil {
		c.Close()
	}
	return err
}

// wantDial connects to an address that has no route unless it is translated.
func wantDial(t *testing.T, what, local, to string, want error) {
	t.Helper()
	if err := dialFrom(t, local, to); !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("%s: connect to %s: %v, want %v", what, to, err, want)
	}
}

// newPod is a network namespace of a pod with one address of each family.
func newPod(t *testing.T, d *Datapath, p Pod) *netns {
	t.Helper()
	n := newNetns(t)
	n.do(t, func() (err error) {
		if p.NetNSCookie, err = NetNSCookie(); err != nil {
			return err
		}
		return d.Pods.Put(p)
	})
	return n
}

// TestSourceRanges: a load balancer's address serves clients inside the cluster by the same ranges (E8). Whom it does not
// serve is left to the packet path, which drops: here there is no route.
func TestSourceRanges(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	left, refused := error(unix.ENETUNREACH), error(unix.ECONNREFUSED) // by the pod's own loopback
	backend := greeter(t, "127.0.0.1:0", "a")
	b := Block{Cluster: []netip.AddrPort{backend}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/28"), netip.MustParsePrefix("192.0.2.7/32")}}
	lb, external, cluster := frontend("203.0.113.1:80", tcp), frontend("203.0.113.2:80", tcp), frontend("10.96.2.1:80", tcp)
	if err := errors.Join(
		d.Services.Publish(1, b), d.Services.PutFrontend(lb, LoadBalancer, 1), d.Services.PutFrontend(external, ExternalIP, 1),
		d.Services.PutFrontend(cluster, ClusterIP, 1), d.Services.Publish(2, Block{Cluster: b.Cluster}),
	); err != nil {
		t.Fatal(err)
	}
	inside := newPod(t, d, Pod{Addrs: addrs([]string{"10.1.0.5"})})
	outside := newPod(t, d, Pod{Addrs: addrs([]string{"10.1.0.16"})})
	from := func(n *netns, what, to string, want error) {
		t.Helper()
		n.do(t, func() error { wantDial(t, what, "", to, want); return nil })
	}
	from(inside, "E8 a pod in a range", "203.0.113.1:80", refused)
	from(outside, "E8 a pod in none", "203.0.113.1:80", left)
	from(outside, "E8 ranges are not about external IPs", "203.0.113.2:80", refused)
	from(outside, "E8 ranges are not about cluster IPs", "10.96.2.1:80", refused)
	from(newNetns(t), "E8 a client nobody knows", "203.0.113.1:80", left)
	wantDial(t, "E8 the host, before its address is known", "", "203.0.113.1:80", left)
	if err := d.Pods.PutHost(cfg.HostNetNSCookie, netip.MustParseAddr(host), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	wantDial(t, "E8 the host, whose address is in a range", "", "203.0.113.1:80", nil)
	ownAddress(t, "192.0.2.8/32")
	if err := d.SetNodeAddresses(addrs([]string{"192.0.2.8"})); err != nil {
		t.Fatal(err)
	}
	wantDial(t, "E8 the host from an address in none", "192.0.2.8", "203.0.113.1:80", left)

	b.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.1.0.16/30"), netip.MustParsePrefix("192.0.2.9/24")}
	if err := d.Services.Publish(1, b); err != nil {
		t.Fatal(err)
	}
	from(inside, "E8 a pod in none of the new ranges", "203.0.113.1:80", left)
	from(outside, "E8 a pod in one of the new ranges", "203.0.113.1:80", refused)
	if err := d.Services.PutFrontend(lb, LoadBalancer, 2); err != nil {
		t.Fatal(err)
	}
	from(inside, "E8 a Service without ranges", "203.0.113.1:80", refused)
	if err := d.Services.PutFrontend(lb, LoadBalancer, 1); err != nil {
		t.Fatal(err)
	}
	d.Services.Retire(1)
	if err := d.Services.Publish(1, Block{Cluster: b.Cluster}); err != nil {
		t.Fatal(err)
	}
	from(inside, "E8 ranges are gone", "203.0.113.1:80", refused)
	wantNoRanges(t, d)
}

func wantNoRanges(t *testing.T, d *Datapath) {
	t.Helper()
	var key sockSourceRange
	var value uint8
	if d.objs.SourceRanges.Iterate().Next(&key, &value) {
		t.Errorf("range %+v is left", key)
	}
}

// TestSourceRangesIPv6 and over a restart: a new agent knows the ranges that an old one wrote.
func TestSourceRangesIPv6(t *testing.T) {
	cfg := node(t)
	ranges := []netip.Prefix{netip.MustParsePrefix("fd01::/64"), netip.MustParsePrefix("fd02::7/128")}
	b := Block{Cluster: addrPorts("[::1]:1"), SourceRanges: ranges}
	old := start(t, cfg)
	if err := errors.Join(old.Services.Publish(1, b), old.Services.PutFrontend(frontend("[2001:db8::1]:80", tcp), LoadBalancer, 1)); err != nil {
		t.Fatal(err)
	}
	in, out := newPod(t, old, Pod{Addrs: addrs([]string{"fd01::5"})}), newPod(t, old, Pod{Addrs: addrs([]string{"10.1.0.6", "fd01:0:0:1::5"})})
	in.do(t, func() error {
		wantDial(t, "E8 a pod in a range", "", "[2001:db8::1]:80", unix.ECONNREFUSED)
		return nil
	})
	out.do(t, func() error { wantDial(t, "E8 a pod in none", "", "[2001:db8::1]:80", unix.ENETUNREACH); return nil })
	d := start(t, cfg)
	if got, ok := d.Services.Block(1); !ok || !got.Equal(b) {
		t.Errorf("the new agent reads %+v, want %+v", got, b)
	}
	b.SourceRanges = ranges[1:]
	if err := d.Services.Publish(1, b); err != nil {
		t.Fatal(err)
	}
	in.do(t, func() error {
		wantDial(t, "E8 a range that is gone", "", "[2001:db8::1]:80", unix.ENETUNREACH)
		return nil
	})
	d.Services.Retire(1)
	if err := d.Services.Reclaim(); err != nil {
		t.Fatal(err)
	}
	wantNoRanges(t, d)
}

// TestVerdicts is what a socket hears of a Service that has no backend for it. What is lost under kube-proxy keeps its
// address, and the packet path drops it: here there is no route.
func TestVerdicts(t *testing.T) {
	d := start(t, node(t))
	elsewhere := addrPorts("198.51.100.1:80")
	for name, c := range map[string]struct {
		kind  FrontendKind
		block Block
		want  error
	}{
		"D1 no endpoint anywhere":                                  {ClusterIP, Block{}, unix.ECONNREFUSED},
		"D1 no endpoint anywhere, internalTrafficPolicy Local":     {ClusterIP, Block{InternalLocal: true}, unix.ECONNREFUSED},
		"D1 no endpoint anywhere, at a load balancer's":            {LoadBalancer, Block{ExternalLocal: true}, unix.ECONNREFUSED},
		"D1 nothing but what drains":                               {ClusterIP, Block{Draining: elsewhere}, unix.ECONNREFUSED},
		"D2, D6 internalTrafficPolicy Local, endpoints elsewhere":  {ClusterIP, Block{Cluster: elsewhere, InternalLocal: true, InternalDrop: true}, unix.ENETUNREACH},
		"D3 inside, no policy makes an external address lose":      {LoadBalancer, Block{ExternalLocal: true, ExternalDrop: true}, unix.ECONNREFUSED},
		"E3 the internal policy is not about external addresses":   {ExternalIP, Block{InternalLocal: true, InternalDrop: true}, unix.ECONNREFUSED},
		"D6 affinity changes nothing about an empty list":          {ClusterIP, Block{InternalLocal: true, InternalDrop: true, Affinity: time.Hour}, unix.ENETUNREACH},
		"D1 affinity changes nothing about no endpoint":            {ClusterIP, Block{Affinity: time.Hour}, unix.ECONNREFUSED},
		"E4 the cluster's list, whatever the external policy says": {LoadBalancer, Block{Cluster: elsewhere, ExternalLocal: true, ExternalDrop: true}, unix.ENETUNREACH},
	} {
		if err := errors.Join(d.Services.Publish(1, c.block), d.Services.PutFrontend(frontend("203.0.113.9:80", tcp), c.kind, 1)); err != nil {
			t.Fatal(err)
		}
		wantDial(t, name, "", "203.0.113.9:80", c.want)
	}
}

// TestServiceAddress: other ports of a Service's address refuse (A11).
func TestServiceAddress(t *testing.T) {
	d := start(t, node(t))
	var backends = map[string]netip.AddrPort{"v4": greeter(t, "127.0.0.1:0", "a"), "v6": greeter(t, "[::1]:0", "a")}
	mesh := newPod(t, d, Pod{Addrs: addrs([]string{"10.1.0.5", "fd01::5"}), ByPackets: true})
	for family, addr := range map[string]string{"v4": "10.96.3.1", "v6": "fd00:96::31"} {
		ip := netip.MustParseAddr(addr)
		known, unknown := netip.AddrPortFrom(ip, 80), netip.AddrPortFrom(ip, 81)
		whole := Frontend{Addr: netip.AddrPortFrom(ip, 0)}
		publish(t, d, 1, Frontend{Addr: known, Protocol: tcp}, Block{Cluster: []netip.AddrPort{backends[family]}})
		wantDial(t, "an address that nobody has said is a Service's", "", unknown.String(), unix.ENETUNREACH)
		if err := d.Services.PutFrontend(whole, ServiceAddress, 0); err != nil {
			t.Fatal(err)
		}
		wantDial(t, "A11 a port of the Service", "", known.String(), nil)
		wantDial(t, "A11 another port", "", unknown.String(), unix.ECONNREFUSED)
		wantDial(t, "A11 a neighbouring address, which the packet path drops", "", netip.AddrPortFrom(ip.Next(), 80).String(), unix.ENETUNREACH)
		// Programs ask for their own address by this, and kube-proxy has nothing against it.
		if c, err := net.Dial("udp", unknown.String()); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("A11 connect() of UDP to another port: %v, want it left alone (%v)", err, c)
		}
		mesh.do(t, func() error {
			wantDial(t, "A11 from a pod whose sockets are left alone", "", unknown.String(), unix.ENETUNREACH)
			wantDial(t, "K12 from a pod whose sockets are left alone", "", known.String(), unix.ENETUNREACH)
			return nil
		})
		if err := d.Services.DeleteFrontend(whole); err != nil {
			t.Fatal(err)
		}
		wantDial(t, "D5 the Service is gone", "", unknown.String(), unix.ENETUNREACH)
	}
	entries, err := d.Services.Entries()
	if err != nil || len(entries) != 2 {
		t.Errorf("left are %v, %v", entries, err)
	}
}

// TestByPackets: sockets of a pod that is served by packets are left alone for good, UDP as well (K12).
func TestByPackets(t *testing.T) {
	d := start(t, node(t))
	f := frontend("10.96.3.2:53", udp)
	publish(t, d, 1, f, Block{Cluster: addrPorts("127.0.0.1:9")})
	pod := Pod{Addrs: addrs([]string{"10.1.0.5"}), ByPackets: true}
	n := newPod(t, d, pod)
	dialUDP := func(want error) {
		t.Helper()
		n.do(t, func() error {
			c, err := net.Dial("udp", f.Addr.String())
			if err == nil {
				defer c.Close()
			}
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("connect: %v, want %v", err, want)
			}
			return nil
		})
	}
	dialUDP(unix.ENETUNREACH)
	have, ok, err := d.Pods.Lookup(pod.Addrs[0])
	if err != nil || !ok || !have.ByPackets {
		t.Fatalf("the pod reads %+v, %v, %v", have, ok, err)
	}
	have.ByPackets = false
	if err := d.Pods.Put(have); err != nil {
		t.Fatal(err)
	}
	dialUDP(nil)
}

// TestLoopback: the host's sockets reach node ports at every address of its loopback (B4), and a socket that is bound to
// one of them is not sent where it cannot go (K16).
func TestLoopback(t *testing.T) {
	d := start(t, node(t))
	if err := d.SetNodeAddresses(addrs([]string{"127.0.0.1", "::1"})); err != nil {
		t.Fatal(err)
	}
	for _, family := range []struct {
		any, listen, remote, self string
		ask                       []string
	}{
		{"0.0.0.0:30080", "127.0.0.1:0", "198.51.100.1:80", "127.0.0.1", []string{"127.0.0.1:30080", "127.0.0.2:30080", "127.255.255.254:30080"}},
		{"[::]:30080", "[::1]:0", "[2001:db8::9]:80", "::1", []string{"[::1]:30080"}},
	} {
		wild := frontend(family.any, tcp)
		put := func(b Block) {
			t.Helper()
			if err := errors.Join(d.Services.Publish(1, b), d.Services.PutFrontend(wild, NodePort, 1)); err != nil {
				t.Fatal(err)
			}
		}
		put(Block{Cluster: []netip.AddrPort{greeter(t, family.listen, "a")}})
		for _, to := range family.ask {
			if name, err := greet(t, to); err != nil || name != "a" {
				t.Errorf("B4 %s: %q, %v", to, name, err)
			}
			wantDial(t, "K16 from a loopback address to a backend that is there", family.self, to, nil)
		}
		put(Block{Cluster: addrPorts(family.remote)})
		for _, to := range family.ask {
			wantDial(t, "B4 to a backend on another node", "", to, unix.ENETUNREACH)
			wantDial(t, "K16 from a loopback address to a backend on another node", family.self, to, unix.ECONNREFUSED)
		}
	}
	if err := d.SetNodeAddresses(nil); err != nil {
		t.Fatal(err)
	}
	wantDial(t, "B3 node ports are not on the loopback", "", "127.0.0.2:30080", unix.ECONNREFUSED)
}

// TestMapped: an IPv6 socket talks IPv4 by v4-mapped addresses, unless it is for IPv6 only (K19).
func TestMapped(t *testing.T) {
	d := start(t, node(t))
	publish(t, d, 1, frontend("10.96.3.3:80", tcp), Block{Cluster: []netip.AddrPort{greeter(t, "127.0.0.1:0", "a")}})
	publish(t, d, 2, frontend("10.96.3.3:53", udp), Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "a")}})
	mapped := netip.AddrFrom16(netip.MustParseAddr("10.96.3.3").As16())
	for _, c := range []struct {
		kind, port, only int
		want             error
	}{
		{unix.SOCK_STREAM, 80, 0, nil}, {unix.SOCK_DGRAM, 53, 0, nil},
		{unix.SOCK_STREAM, 80, 1, unix.ENETUNREACH}, {unix.SOCK_DGRAM, 53, 1, unix.ENETUNREACH},
	} {
		fd, err := unix.Socket(unix.AF_INET6, c.kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, c.only); err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: mapped.As16(), Port: c.port}); !errors.Is(err, c.want) {
			t.Errorf("K19 %+v: %v", c, err)
		}
		if c.want != nil || c.kind != unix.SOCK_DGRAM {
			continue
		}
		if got := peerOf(t, fd).(*unix.SockaddrInet6); got.Addr != mapped.As16() || got.Port != c.port {
			t.Errorf("K5, K19 the peer of a v4-mapped socket is %v", got)
		}
	}
}

// TestRangesOutliveReaders: a program that reads the block before a change finds the ranges that go with it (E8): they stay until
// none does. What an agent left of a record that it had retired goes, too.
func TestRangesOutliveReaders(t *testing.T) {
	cfg := node(t)
	d, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	old, stays := netip.MustParsePrefix("10.1.0.0/28"), netip.MustParsePrefix("10.2.0.0/28")
	has := func(p netip.Prefix) bool {
		var value uint8
		return d.objs.SourceRanges.Lookup(rangeKey(1, p), &value) == nil
	}
	waits, grace := 0, d.Services.wait
	d.Services.wait = func() error {
		if waits++; !has(old) {
			t.Error("the range of a block that may be read is gone")
		}
		return grace()
	}
	steps := []struct {
		name   string
		do     func() error
		waits  int
		stands bool
	}{
		{"two ranges", func() error { return d.Services.Publish(1, Block{SourceRanges: []netip.Prefix{old, stays}}) }, 0, true},
		{"one of them", func() error { return d.Services.Publish(1, Block{SourceRanges: []netip.Prefix{stays}}) }, 1, false},
		{"two again", func() error { return d.Services.Publish(1, Block{SourceRanges: []netip.Prefix{stays, old}}) }, 1, true},
		{"everybody", func() error { return d.Services.Publish(1, Block{}) }, 2, false},
		{"one", func() error { return d.Services.Publish(1, Block{SourceRanges: []netip.Prefix{old}}) }, 2, true},
		{"retired", func() error { d.Services.Retire(1); return nil }, 2, true},
		{"reclaimed", d.Services.Reclaim, 3, false},
		{"one once more", func() error { return d.Services.Publish(1, Block{SourceRanges: []netip.Prefix{old}}) }, 3, true},
		{"retired for good", func() error { d.Services.Retire(1); return nil }, 3, true},
	}
	for _, s := range steps {
		if err := s.do(); err != nil || waits != s.waits || has(old) != s.stands {
			t.Errorf("%s: %v, waited %d times, the range stands: %t; want %d and %t", s.name, err, waits, has(old), s.waits, s.stands)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = start(t, cfg)
	if err := d.Services.Reclaim(); err != nil {
		t.Fatal(err)
	}
	wantNoRanges(t, d)
}
