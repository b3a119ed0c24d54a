//go:build node

package bpf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// An affine is a Service port with session affinity and many backends that say their names: record 1, at 10.96.1.1:80.
type affine struct {
	*Datapath
	backends []netip.AddrPort
}

const affineAddr = "10.96.1.1:80"

func startAffine(t *testing.T, cfg Config, backends int) affine {
	t.Helper()
	a := affine{Datapath: start(t, cfg)}
	for i := range backends {
		a.backends = append(a.backends, greeter(t, "127.0.0.1:0", fmt.Sprint(i)))
	}
	a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
	err := errors.Join(
		a.Services.PutFrontend(frontend(affineAddr, tcp), ClusterIP, 1), a.Pods.PutHost(cfg.HostNetNSCookie, netip.MustParseAddr("192.0.2.7"), netip.Addr{}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a affine) publish(t *testing.T, b Block) {
	t.Helper()
	if err := a.Services.Publish(1, b); err != nil {
		t.Fatal(err)
	}
}

// entry is what is remembered of a client.
func (a affine) entry(t *testing.T, client string) AffinityEntry {
	t.Helper()
	all, err := a.Affinity.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Client == netip.MustParseAddr(client) {
			return e
		}
	}
	t.Fatalf("nothing is remembered of %s: %v", client, all)
	return AffinityEntry{}
}

// age has a client's last connections be so long ago, and with to they have been to that backend.
func (a affine) age(t *testing.T, client string, ago time.Duration, to netip.AddrPort) {
	t.Helper()
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	aged := 0
	err = a.Affinity.each(func(k sockAffinityKey, v sockAffinity) error {
		if address(k.Client) != netip.MustParseAddr(client) {
			return nil
		}
		aged++
		v.LastUsed = uint64(now - ago)
		if to.IsValid() {
			v.Backend, v.Port, v.Place = words(to.Addr()), swap16(to.Port()), 1<<20
		}
		return a.objs.Affinity.Update(k, v, ebpf.UpdateExist)
	})
	if err != nil || aged == 0 {
		t.Fatalf("%d entries of %s: %v", aged, client, err)
	}
}

// greets connects and returns who answered.
func greets(t *testing.T, addr string) string {
	t.Helper()
	name, err := greet(t, addr)
	if err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	return name
}

// names connects often and returns who answered.
func names(t *testing.T, addr string, times int) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range times {
		seen[greets(t, addr)]++
	}
	return seen
}

const host = "192.0.2.7"

func TestAffinity(t *testing.T) {
	a := startAffine(t, node(t), 20)
	ownAddress(t, host+"/32")
	if err := errors.Join(
		a.SetNodeAddresses(addrs([]string{host, "127.0.0.1"})),
		a.Services.PutFrontend(Frontend{Addr: at("0.0.0.0", 30080), Protocol: tcp}, NodePort, 1),
		a.Services.PutFrontend(frontend("203.0.113.1:80", tcp), LoadBalancer, 1),
		a.Services.PutFrontend(frontend("203.0.113.2:80", tcp), ExternalIP, 1),
	); err != nil {
		t.Fatal(err)
	}
	t.Run("F1 a client keeps its backend, at all frontends of a port", func(t *testing.T) {
		first := greets(t, affineAddr)
		for _, to := range []string{affineAddr, host + ":30080", "127.0.0.1:30080", "203.0.113.1:80", "203.0.113.2:80"} {
			if seen := names(t, to, 8); seen[first] != 8 {
				t.Errorf("%s: answers of %v, want %s", to, seen, first)
			}
		}
	})
	t.Run("F1 the timer restarts at each connection, and when it is over the choice is free", func(t *testing.T) {
		first := greets(t, affineAddr)
		a.age(t, host, 59*time.Minute, netip.AddrPort{})
		before, err := Clock()
		if got := greets(t, affineAddr); err != nil || got != first {
			t.Errorf("within the time: %s, want %s (%v)", got, first, err)
		}
		if e := a.entry(t, host); e.LastUsed < before {
			t.Error("a connection does not restart the timer")
		}
		seen := map[string]bool{}
		for range 12 {
			a.age(t, host, time.Hour, netip.AddrPort{})
			seen[greets(t, affineAddr)] = true
		}
		if len(seen) == 1 {
			t.Error("affinity has no end")
		}
	})
	t.Run("F1 a backend that is removed, and one that only drains, is replaced for good", func(t *testing.T) {
		first := greets(t, affineAddr)
		gone := a.entry(t, host).Backend
		a.publish(t, Block{Cluster: rest(a.backends, gone), Draining: []netip.AddrPort{gone}, Affinity: time.Hour})
		next := greets(t, affineAddr)
		if next == first {
			t.Error("a new connection to a backend that only drains")
		}
		a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
		if seen := names(t, affineAddr, 8); seen[next] != 8 {
			t.Errorf("answers of %v, want %s", seen, next)
		}
	})
	t.Run("F4 the local list counts where the policy says so", func(t *testing.T) {
		greets(t, affineAddr)
		a.age(t, host, 0, a.backends[3])
		a.publish(t, Block{Cluster: a.backends, Local: a.backends[5:6], InternalLocal: true, Affinity: time.Hour})
		if got := greets(t, host+":30080"); got != "3" {
			t.Errorf("a node port, whose list is the cluster's: %s", got)
		}
		if got := greets(t, affineAddr); got != "5" {
			t.Errorf("the cluster IP with internalTrafficPolicy Local: %s", got)
		}
		a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
	})
	t.Run("F5 a new timeout counts for those who are remembered", func(t *testing.T) {
		greets(t, affineAddr)
		a.age(t, host, 30*time.Minute, a.backends[3])
		a.publish(t, Block{Cluster: a.backends, Affinity: 2 * time.Hour})
		if got := greets(t, affineAddr); got != "3" {
			t.Errorf("with a longer timeout: %s", got)
		}
		a.publish(t, Block{Cluster: a.backends, Affinity: 10 * time.Minute})
		if free := a.free(t, 30*time.Minute); !free {
			t.Error("a shorter timeout does not count")
		}
	})
	t.Run("F5 who was remembered before affinity was off is not when it is on again", func(t *testing.T) {
		same := 0
		for range 8 {
			a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
			greets(t, affineAddr)
			a.age(t, host, 0, a.backends[3])
			if got := greets(t, affineAddr); got != "3" {
				t.Fatalf("affinity is not on: %s", got)
			}
			a.publish(t, Block{Cluster: a.backends})
			a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
			if greets(t, affineAddr) == "3" {
				same++
			}
		}
		if same == 8 {
			t.Error("old entries come back to life")
		}
	})
	t.Run("off", func(t *testing.T) {
		a.publish(t, Block{Cluster: a.backends})
		if seen := names(t, affineAddr, 32); len(seen) == 1 {
			t.Errorf("without affinity all go to %v", seen)
		}
	})
}

// free reports whether a client whose last connection is so long ago gets another backend than it had.
func (a affine) free(t *testing.T, ago time.Duration) bool {
	t.Helper()
	for range 8 {
		a.age(t, host, ago, a.backends[3])
		if greets(t, affineAddr) != "3" {
			return true
		}
	}
	return false
}

func rest(all []netip.AddrPort, but netip.AddrPort) (out []netip.AddrPort) {
	for _, a := range all {
		if a != but {
			out = append(out, a)
		}
	}
	return out
}

// TestAffinityLists has clients of both lists of a port, which kube-proxy remembers by backend, and so side by side.
func TestAffinityLists(t *testing.T) {
	a := startAffine(t, node(t), 20)
	ownAddress(t, host+"/32")
	if err := errors.Join(
		a.SetNodeAddresses(addrs([]string{host, "127.0.0.1"})),
		a.Services.PutFrontend(Frontend{Addr: at("0.0.0.0", 30080), Protocol: tcp}, NodePort, 1),
	); err != nil {
		t.Fatal(err)
	}
	// The node chooses from the local list by the cluster IP, and from the cluster's by the node port.
	const byLocal, byCluster = affineAddr, host + ":30080"
	local := Block{Cluster: a.backends[:16], Local: a.backends[12:], InternalLocal: true, Affinity: time.Hour}
	t.Run("F1 what a client chose by one list stays when it chooses by the other", func(t *testing.T) {
		b := local
		b.Local = a.backends[16:]
		a.publish(t, b)
		first, second := greets(t, byLocal), greets(t, byCluster)
		for range 8 {
			if l, c := greets(t, byLocal), greets(t, byCluster); l != first || c != second {
				t.Fatalf("by the local list %s, by the cluster's %s; first it was %s and %s", l, c, first, second)
			}
		}
	})
	t.Run("F1 what a client chose by one list counts for the other if that has it, and starts anew", func(t *testing.T) {
		for _, to := range [][2]string{{byLocal, byCluster}, {byCluster, byLocal}} {
			a.forgetAll(t)
			a.publish(t, Block{Cluster: a.backends[12:16], Local: a.backends[12:16], InternalLocal: true, Affinity: time.Hour})
			first := greets(t, to[0])
			a.publish(t, local)
			if seen := names(t, to[1], 8); seen[first] != 8 {
				t.Errorf("%s after %s of %s: %v", to[1], first, to[0], seen)
			}
			a.age(t, host, 30*time.Minute, netip.AddrPort{})
			greets(t, to[1])
			if e := a.entry(t, host); e.Local != (to[0] == byLocal) || a.ago(t, e) > 10*time.Minute {
				t.Errorf("%s leaves %+v", to[1], e)
			}
		}
	})
	t.Run("F4 what a client chose by one list does not count for the other if that has it not", func(t *testing.T) {
		a.forgetAll(t)
		a.publish(t, Block{Cluster: a.backends[:4], Local: a.backends[16:], InternalLocal: true, Affinity: time.Hour})
		greets(t, byCluster)
		if got := greets(t, byLocal); got < "16" || got > "19" || len(got) != 2 {
			t.Errorf("the local list of 16 to 19: %s", got)
		}
	})
	t.Run("F1 a client keeps its backend when the policy changes", func(t *testing.T) {
		a.forgetAll(t)
		a.publish(t, local)
		first := greets(t, byLocal)
		a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
		if seen := names(t, byLocal, 8); seen[first] != 8 {
			t.Errorf("after %s: %v", first, seen)
		}
	})
}

// forgetAll has no client be known.
func (a affine) forgetAll(t *testing.T) {
	t.Helper()
	err := a.Affinity.each(func(k sockAffinityKey, _ sockAffinity) error { return a.objs.Affinity.Delete(k) })
	if err != nil {
		t.Fatal(err)
	}
}

func (a affine) ago(t *testing.T, e AffinityEntry) time.Duration {
	t.Helper()
	now, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	return now - e.LastUsed
}

// TestAffinityClients is about who is one client (F2), by what is remembered.
func TestAffinityClients(t *testing.T) {
	cfg := node(t)
	a := startAffine(t, cfg, 20)
	ownAddress(t, "192.0.2.8/32")
	ownAddress(t, host+"/32")
	if err := a.SetNodeAddresses(addrs([]string{host, "192.0.2.8"})); err != nil {
		t.Fatal(err)
	}
	connect := func() error {
		c, err := net.Dial("tcp", affineAddr)
		if err == nil {
			c.Close()
		}
		return nil // a pod of this test reaches no backend
	}
	for i, addr := range []string{"10.1.0.5", "10.1.0.6"} {
		pod := newNetns(t)
		pod.do(t, func() error {
			cookie, err := NetNSCookie()
			if err != nil {
				return err
			}
			both := addrs([]string{"fd01::5", addr})
			return errors.Join(a.Pods.Put(Pod{Addrs: both[i:], NetNSCookie: cookie}), connect())
		})
		first := a.entry(t, addr)
		pod.do(t, connect)
		if again := a.entry(t, addr); again.Backend != first.Backend || again.LastUsed <= first.LastUsed {
			t.Errorf("F2 two connections of one pod: %v, then %v", first, again)
		}
	}
	stranger := newNetns(t)
	var cookie uint64
	stranger.do(t, func() (err error) { cookie, err = NetNSCookie(); return errors.Join(err, connect()) })
	a.entry(t, address([4]uint32{2: uint32(cookie >> 32), 3: uint32(cookie)}).String())
	greets(t, affineAddr)
	a.entry(t, host)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("192.0.2.8")}}
	if c, err := d.Dial("tcp", affineAddr); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	a.entry(t, "192.0.2.8")
	if all, err := a.Affinity.List(); err != nil || len(all) != 5 {
		t.Errorf("F2 two pods, a namespace nobody knows, the host and its other address are 5 clients: %v, %v", all, err)
	}
}

// TestAffinityIPv6 is the same over IPv6, where a backend is three cells.
func TestAffinityIPv6(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	var backends []netip.AddrPort
	for i := range 10 {
		backends = append(backends, greeter(t, "[::1]:0", fmt.Sprint(i)))
	}
	publish(t, d, 1, frontend("[fd00:96::1]:80", tcp), Block{Cluster: backends, Affinity: time.Hour})
	if err := d.Pods.PutHost(cfg.HostNetNSCookie, netip.Addr{}, netip.MustParseAddr("fd02::7")); err != nil {
		t.Fatal(err)
	}
	first := greets(t, "[fd00:96::1]:80")
	publish(t, d, 1, frontend("[fd00:96::1]:80", tcp), Block{Cluster: backends, Local: backends[:5], Affinity: time.Hour})
	if seen := names(t, "[fd00:96::1]:80", 16); seen[first] != 16 {
		t.Errorf("answers of %v, want %s", seen, first)
	}
	if e := (affine{Datapath: d}).entry(t, "fd02::7"); e.Record != 1 || e.Backend.Addr() != netip.IPv6Loopback() {
		t.Errorf("remembered: %+v", e)
	}
}

// TestAffinityBig: in a block of thousands a client's backend is found wherever a change has put it.
func TestAffinityBig(t *testing.T) {
	a := startAffine(t, node(t), 1)
	var before, after []netip.AddrPort
	for i := range 6000 {
		b := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 80)
		if i >= 3000 {
			b = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)
			before = append(before, b)
		}
		after = append(after, b)
	}
	greets(t, affineAddr)
	for name, lists := range map[string][2][]netip.AddrPort{
		"before all": {append([]netip.AddrPort{a.backends[0]}, before...), append(after, a.backends[0])},
		"local":      {append([]netip.AddrPort{a.backends[0]}, after...), append([]netip.AddrPort{a.backends[0]}, before...)},
	} {
		for i, list := range lists {
			b := Block{Cluster: list, Affinity: time.Hour}
			if name == "local" {
				b.Local = []netip.AddrPort{a.backends[0]}
			}
			a.publish(t, b)
			if got := greets(t, affineAddr); got != "0" {
				t.Errorf("%s, change %d: %q", name, i, got)
			}
		}
	}
}

// TestAffinityAtOnce has a client that is not known open connections at the same time: all go to one backend.
func TestAffinityAtOnce(t *testing.T) {
	a := startAffine(t, node(t), 20)
	for range 40 {
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			seen = map[string]int{}
			gate = make(chan struct{})
		)
		for range 4 {
			wg.Go(func() {
				<-gate
				c, err := net.Dial("tcp", affineAddr)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				name, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[string(name)]++
			})
		}
		close(gate)
		wg.Wait()
		if len(seen) != 1 {
			t.Fatalf("the first connections went to %v", seen)
		}
		if err := a.objs.Affinity.Delete(sockAffinityKey{Client: words(netip.MustParseAddr(host)), Record: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAffinityFull: whom there is no room for is served all the same, and counted; and a sweep makes room.
func TestAffinityFull(t *testing.T) {
	cfg := node(t)
	cfg.Affinities = 2
	a := startAffine(t, cfg, 20)
	if err := a.SetNodeAddresses(addrs([]string{"192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13"})); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		own := fmt.Sprintf("192.0.2.%d", 10+i)
		ownAddress(t, own+"/32")
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(own)}}
		c, err := d.Dial("tcp", affineAddr)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		c.Close()
	}
	sweep := func(later time.Duration) AffinityStats {
		now, err := Clock()
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Affinity.Sweep(now + later)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got, want := sweep(0), (AffinityStats{Entries: 2, Max: 2, Full: 2}); got != want {
		t.Errorf("swept %+v, want %+v", got, want)
	}
	if got, want := sweep(time.Hour), (AffinityStats{Max: 2, Swept: 2, Full: 2}); got != want {
		t.Errorf("F1 swept after the timeout %+v, want %+v", got, want)
	}
	greets(t, affineAddr)
	a.publish(t, Block{Cluster: a.backends})
	if got := sweep(0); got.Swept != 1 {
		t.Errorf("F5 swept after affinity was switched off: %+v", got)
	}
	a.publish(t, Block{Cluster: a.backends, Affinity: time.Hour})
	greets(t, affineAddr)
	a.Services.Retire(1)
	if got := sweep(0); got.Swept != 1 {
		t.Errorf("swept after the Service was deleted: %+v", got)
	}
}
