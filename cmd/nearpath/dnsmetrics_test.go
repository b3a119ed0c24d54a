package main

import (
	"net/netip"
	"testing"

	"github.com/nearpath/nearpath/bpf"
)

// TestKernelDNSCounts: pods that come, go, and come again at the same address never make the node's counters fall, and one that
// is missed once is not counted twice.
func TestKernelDNSCounts(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	type counts = map[netip.Addr]bpf.DNSCounts
	k := newKernelDNS(nil)
	for i, tt := range []struct {
		now  counts
		want bpf.DNSCounts
	}{
		{counts{a: {Hit: 5, Miss: 1}}, bpf.DNSCounts{Hit: 5, Miss: 1}},
		{counts{a: {Hit: 7, Miss: 1}, b: {Negative: 2}}, bpf.DNSCounts{Hit: 7, Miss: 1, Negative: 2}},
		{counts{b: {Negative: 3, Punt: 1}}, bpf.DNSCounts{Hit: 7, Miss: 1, Negative: 3, Punt: 1}},
		{counts{a: {Hit: 1}}, bpf.DNSCounts{Hit: 8, Miss: 1, Negative: 3, Punt: 1}},
		{counts{a: {Hit: 1}, b: {Negative: 1, Expired: 1}}, bpf.DNSCounts{Hit: 8, Miss: 1, Negative: 4, Punt: 1, Expired: 1}},
	} {
		if got := k.add(tt.now); got != tt.want {
			t.Errorf("after reading %d: %+v, want %+v", i, got, tt.want)
		}
	}
}
