package main

import (
	"testing"

	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/ipam"
)

// What the pool knows goes before what the kernel's routes say.
func TestWiredBefore(t *testing.T) {
	known := []ipam.ENI{
		{LeaseENI: ipam.LeaseENI{MAC: "m-1", Slot: 1}, State: ipam.ENIInUse},
		{LeaseENI: ipam.LeaseENI{MAC: "m-2", Slot: 2}, State: ipam.ENIInUse, Exclusive: true},
		{LeaseENI: ipam.LeaseENI{MAC: "m-3", Slot: 3}, State: ipam.ENIDetaching},
		{LeaseENI: ipam.LeaseENI{MAC: "m-4", Slot: 4}, State: ipam.ENIDraining},
	}
	routed := []hostnet.ENI{{MAC: "m-1", Slot: 9}, {MAC: "m-7", Slot: 4}, {MAC: "m-3", Slot: 3}, {MAC: "m-8", Slot: 8}}
	got := map[string]int{}
	for _, e := range wiredBefore(known, routed) {
		got[e.MAC] = e.Slot
	}
	if len(got) != 3 || got["m-1"] != 1 || got["m-4"] != 4 || got["m-8"] != 8 {
		t.Errorf("wired before: %v", got)
	}
}
