//go:build node

package bpf

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPolicyMaps puts something of all there is, and has it read by another agent.
func TestPolicyMaps(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	p := d.Policy
	pod := Pod{Addrs: addrs(podAddrs), Link: 1, Slot: 1}
	if err := d.Pods.Put(pod); err != nil {
		t.Fatal(err)
	}
	number, err := p.Number(pod.Addrs[1])
	if err != nil {
		t.Fatal(err)
	}
	peers := map[netip.Addr]uint64{netip.MustParseAddr("10.0.0.1"): 1, netip.MustParseAddr("fd00::1"): 1 << 63}
	cidrs := map[netip.Prefix]uint64{
		netip.MustParsePrefix("0.0.0.0/0"): 2, netip.MustParsePrefix("10.0.0.0/8"): 3, netip.MustParsePrefix("::/0"): 4, netip.MustParsePrefix("fd00::/8"): 5,
	}
	verdicts := map[PolicyKey][]PolicyInterval{
		{7, 1}: {{Lo: 6<<16 | 80, Hi: 6<<16 | 80, Log: true}}, {7, 0}: {},
		{7, 2}: {{Lo: 6<<16 | 80, Hi: 6<<16 | 81}, {Lo: 17 << 16, Hi: 17<<16 | 0xffff, Log: true}},
		{8, 2}: {{Lo: 6<<16 | 80, Hi: 6<<16 | 81}, {Lo: 17 << 16, Hi: 17<<16 | 0xffff, Log: true}}, {8, 3}: {{Lo: 0, Hi: MaxPoint}},
	}
	for a, c := range peers {
		err = errors.Join(err, p.PutPeer(a, c+1), p.PutPeer(a, c))
	}
	for n, c := range cidrs {
		err = errors.Join(err, p.PutCIDR(n, c))
	}
	for k, v := range verdicts {
		err = errors.Join(err, p.PutVerdict(k, v))
	}
	sets := PolicySets{7, 8}
	if err := errors.Join(err, p.PutPod(number, sets)); err != nil {
		t.Fatal(err)
	}
	if err := p.Bump(); err != nil {
		t.Fatal(err)
	}

	later := start(t, cfg).Policy
	contents, err := later.Contents()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(PolicyContents{verdicts, peers, cidrs, map[uint16]PolicySets{number: sets}}, contents, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("contents (want, got): %s", diff)
	}
	if got := later.Generation(); got != p.Generation() || got < 2 {
		t.Errorf("generation %d, want %d", got, p.Generation())
	}
	if a, b := p.Secret(), later.Secret(); a != b || a == [16]byte{} {
		t.Errorf("secrets %x and %x", a, b)
	}
	for addr, want := range map[string]uint64{
		"10.0.0.1": 1, "10.0.0.2": 3, "11.0.0.1": 2, "fd00::1": 1 << 63, "fd00::2": 5, "2001:db8::1": 4,
	} {
		if got, err := later.Class(netip.MustParseAddr(addr)); err != nil || got != want {
			t.Errorf("class of %s is %d, %v, want %d", addr, got, err, want)
		}
	}
	if err := later.DeleteCIDR(netip.MustParsePrefix("0.0.0.0/0")); err != nil {
		t.Fatal(err)
	}
	if got, err := later.Class(netip.MustParseAddr("11.0.0.1")); err != nil || got != 0 {
		t.Errorf("an IPv4 address has class %d, %v, of an IPv6 prefix", got, err)
	}
	if got, want := later.Used(), (PolicyRoom{Verdicts: 5, Peers: 2, CIDRs: 3, Cells: 2, Pods: 1}); got != want {
		t.Errorf("used %v, want %v", got, want)
	}
	if got, want := later.Room(), (PolicyRoom{Verdicts: 1 << 18, Peers: 1 << 17, CIDRs: 1 << 16, Cells: 1 << 15, Pods: 1024}); got != want {
		t.Errorf("room %v, want %v", got, want)
	}
	if err := d.Pods.Delete(pod.Addrs); err != nil {
		t.Fatal(err)
	}
	if got := later.Sets(number); got != (PolicySets{}) {
		t.Errorf("a number that no pod has has the policy sets %v", got)
	}
	if _, err := later.Number(pod.Addrs[0]); !errors.Is(err, ErrNoPod) {
		t.Errorf("the number of a pod that is gone: %v, want ErrNoPod", err)
	}
}

// TestPolicyLists has cells used again, but not while programs may read them.
func TestPolicyLists(t *testing.T) {
	l := intervalLists{cells: make([]uint64, 8)}
	l.begin()
	waited := 0
	wait := func() error { waited++; return nil }
	put := func(cells ...uint64) packetVerdict {
		t.Helper()
		at, err := l.put(cells, wait)
		if err != nil {
			t.Fatal(err)
		}
		return packetVerdict{At: at, Count: uint32(len(cells))}
	}
	a, b, c := put(1, 2, 3), put(1, 2, 3), put(4, 5, 6)
	if a != b || a == c || l.used() != 6 {
		t.Fatalf("equal lists at %d and %d, another at %d; %d cells used", a.At, b.At, c.At, l.used())
	}
	l.drop(a)
	if _, err := l.put([]uint64{7, 8, 9}, wait); !errors.Is(err, ErrFull) || waited != 0 {
		t.Errorf("a list in use was taken: %v", err)
	}
	l.drop(b)
	if l.used() != 3 || l.cells[a.At] != 1 {
		t.Errorf("%d cells used, want 3", l.used())
	}
	if d := put(7, 8, 9); d.At != a.At || waited != 1 {
		t.Errorf("the list is at %d after %d waits, want %d after one", d.At, waited, a.At)
	}
	if want := []uint64{7, 8, 9, 4, 5, 6, 0, 0}; !slices.Equal(l.cells, want) {
		t.Errorf("cells %v, want %v", l.cells, want)
	}
	if l.drop(c); l.used() != 3 {
		t.Errorf("%d cells used, want 3", l.used())
	}
}

func TestPolicyRefusals(t *testing.T) {
	d := start(t, node(t))
	for _, bad := range [][]PolicyInterval{
		{{Lo: 2, Hi: 1}}, {{Lo: 1, Hi: 5}, {Lo: 5, Hi: 6}}, {{Lo: 4, Hi: 5}, {Lo: 1, Hi: 2}}, {{Lo: 0, Hi: MaxPoint + 1}}, make([]PolicyInterval, maxIntervals+1),
	} {
		if err := d.Policy.PutVerdict(PolicyKey{1, 1}, bad); !errors.Is(err, ErrIntervals) {
			t.Errorf("%d intervals were taken: %v", len(bad), err)
		}
	}
	for _, n := range []uint16{0, 1025} {
		if err := d.Policy.PutPod(n, PolicySets{}); err == nil {
			t.Errorf("the pod number %d was taken", n)
		}
	}
	events, err := d.Policy.Events()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := events.Read(ctx)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("reading events ended with %v", err)
	}
}
