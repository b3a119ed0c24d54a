//go:build node

package hostnet

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A process without records finds what the one before has wired, and keeps the routes by it.
func TestSlotsAreReadFromRoutes(t *testing.T) {
	n := node(t)
	inside(t, n, func() error { return addVeth("eth6", otherMAC, 1500) })
	enis := []ENI{
		{MAC: otherMAC, Slot: 2, Nets: []Net{{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr(gatewayIP)}}},
		{MAC: eniMAC, Slot: 7, Nets: []Net{{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr(gatewayIP)}}},
	}
	var h *Host
	fresh := func() {
		inside(t, n, func() (err error) {
			h, err = New(Config{Log: slog.New(slog.DiscardHandler)})
			return err
		})
	}
	fresh()
	for _, e := range enis {
		if err := h.EnsureENI(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	fresh()
	defer h.Close()
	want := map[string]int{otherMAC: 2, eniMAC: 7}
	if got, err := h.Slots(); err != nil || !cmp.Equal(got, want) {
		t.Fatalf("slots are %v, %v, want %v", got, err, want)
	}
	found, err := h.Routed()
	if err != nil || len(found) != 2 {
		t.Fatalf("routed are %v, %v", found, err)
	}
	for i, e := range found {
		enis[i].Nets[0].Subnet = netip.PrefixFrom(e.Nets[0].Gateway, 32)
		if diff := cmp.Diff(enis[i], e, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || e.Check() != nil {
			t.Errorf("ENI differs: %s, %v", diff, e.Check())
		}
		h.Want(e)
	}
	result := h.compare()
	if err := result.all(); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Slots(); err != nil || !cmp.Equal(got, want) {
		t.Errorf("after a comparison slots are %v, %v, want %v", got, err, want)
	}
}
