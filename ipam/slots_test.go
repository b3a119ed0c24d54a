package ipam

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// Pods have rules about the slots of their ENIs, so a rebuilt pool gives the ENIs the slots that the node knows.
func TestRebuildKeepsSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 10 { // the cloud lists in any order
			cloud := newFakeCloud(5, 2)
			c := testConfig(t, cloud)
			c.Settings.Watermarks = Watermarks{}
			p := mustOpen(t, c)
			stop := start(t, p)
			var pods nodeOfPods
			for i := range 8 {
				l := mustAllocate(t, p, i)
				pods.inUse = append(pods.inUse, InUse{Addr: l.Addrs[0], Key: l.Key})
			}
			slots := map[string]int{}
			for _, e := range p.ENIs() {
				slots[e.MAC] = e.Slot
			}
			stop()
			spoil(t, c.Path, func(raw []byte) []byte { return raw[:4096] })
			c.InUse = pods.list
			c.Slots = func() (map[string]int, error) { return maps.Clone(slots), nil }
			p = mustOpen(t, c)
			if !p.Rebuilding() {
				t.Error("it is not being rebuilt")
			}
			stop = start(t, p)
			eventually(t, "leases", func() bool { return len(p.Leases()) == 8 })
			for _, l := range p.Leases() {
				if slots[l.ENI.MAC] != l.ENI.Slot {
					t.Errorf("ENI %s has slot %d and had %d", l.ENI.MAC, l.ENI.Slot, slots[l.ENI.MAC])
				}
			}
			eventually(t, "the end of the rebuild", func() bool { return !p.Rebuilding() })
			stop()
		}
	})
}

func TestSlotsOfAdoptedENIs(t *testing.T) {
	l := newLedger(aliyun.IPv4)
	l.slots = map[string]int{"m-a": 1, "m-b": 3, "m-c": 3}
	for _, c := range []struct {
		mac  string
		want int
	}{{"m-new", 2}, {"m-b", 3}, {"m-c", 4}, {"m-a", 1}, {"m-b", 5}} {
		e := &eni{Token: c.mac, Slot: l.slotOf(c.mac)}
		if e.Slot != c.want {
			t.Errorf("%s has slot %d, want %d", c.mac, e.Slot, c.want)
		}
		for token := c.mac; ; token += "'" {
			if l.enis[token] == nil {
				l.enis[token] = e
				break
			}
		}
	}
}

func TestSlotsAreAskedForOnlyInARebuild(t *testing.T) {
	c := testConfig(t, newFakeCloud(1, 2))
	c.Slots = func() (map[string]int, error) { return nil, errors.New("the kernel does not answer") }
	p := mustOpen(t, c)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	spoil(t, c.Path, func([]byte) []byte { return []byte("garbage") })
	if _, err := Open(c); err == nil {
		t.Error("it opened without knowing the slots")
	}
	c.Slots = func() (map[string]int, error) { return nil, context.Cause(t.Context()) }
	p = mustOpen(t, c)
	defer p.Close()
	if !p.Rebuilding() {
		t.Error("the rebuild is forgotten")
	}
}
