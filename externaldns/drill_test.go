package externaldns

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// deletes counts the calls that delete.
func (c *fakeCloud) deletes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.actions["DeleteZoneRecord"]
}

func (d *fakeDesired) clear() (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names = slices.Sorted(maps.Keys(d.wants))
	clear(d.wants)
	return names
}

// TestMassDeleteDrills has what is wanted vanish in every way there is: nothing is deleted.
func TestMassDeleteDrills(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, drill := range map[string]func(r *rig) (held bool){
			"all objects are gone": func(r *rig) bool {
				r.Touch(r.desired.clear()...)
				return true
			},
			"a small source is gone": func(r *rig) bool {
				var names []string
				for i := range 12 {
					name := fmt.Sprintf("node-%d.corp", i)
					r.desired.set(name, nil)
					names = append(names, name)
				}
				r.Touch(names...)
				return true
			},
			"the binding is gone": func(r *rig) bool {
				r.cloud.mu.Lock()
				r.cloud.zones["z-1"].VPCs = nil
				r.cloud.mu.Unlock()
				wait(2 * time.Minute)
				r.want("web-1")
				r.want("web-2")
				return false
			},
			"the zone is gone": func(r *rig) bool {
				r.cloud.mu.Lock()
				delete(r.cloud.zones, "z-1")
				r.cloud.mu.Unlock()
				r.want("web-3", "A 10.8.8.8")
				wait(2 * time.Minute)
				r.want("web-1")
				return false
			},
		} {
			cloud := corp()
			d := desire(90, "web")
			for i := range 12 {
				rr := fmt.Sprint("node-", i)
				wants := wantsFor(rr, "A "+address(1000+i))
				wants[0].Object.Kind = "Node"
				d.set(rr+".corp", wants)
			}
			r := start(t, cloud, d)
			wait(20 * time.Minute) // past the guard's window
			if n := len(cloud.shown("z-1")); n != 102 {
				t.Fatalf("%s: %d records at the beginning", name, n)
			}
			held := drill(r)
			wait(24 * time.Hour)
			if n := cloud.deletes(); n > 0 {
				t.Errorf("%s: %d deletes", name, n)
			}
			if got := r.seen.reasons(); len(got) == 0 {
				t.Errorf("%s: nobody is told", name)
			}
			if r.Status().Detail() == "" {
				t.Errorf("%s: readiness has no detail", name)
			}
			if held {
				if err := r.Release("z-1"); err != nil {
					t.Error(err)
				}
				wait(time.Minute)
				if n := cloud.deletes(); n < 12 {
					t.Errorf("%s: %d deletes after the release", name, n)
				}
			}
			r.stop()
		}
	})
}

// TestTrickleOfDeletes has names vanish one after the other: no more of them go than may within the window.
func TestTrickleOfDeletes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		r := start(t, cloud, desire(100, "web"))
		wait(20 * time.Minute)
		for i := range 100 {
			r.want(fmt.Sprint("web-", i))
			wait(time.Second)
		}
		if n := cloud.deletes(); n == 0 || n > 20 {
			t.Errorf("%d of 100 records were deleted within two minutes", n)
		}
	})
}

// TestRestartWithNothingWanted starts with an empty list of objects, or another owner.
func TestRestartWithNothingWanted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "web", 50)
		r := start(t, cloud, &fakeDesired{})
		wait(time.Hour)
		if got := r.seen.reasons(); cloud.writes() > 0 || !slices.Equal(got, []string{"PrivateZone/z-1 DeletesHeld"}) {
			t.Errorf("%d writes, told %v", cloud.writes(), got)
		}
		r.stop()
		r = start(t, cloud, desire(50, "web"), func(c *Config) { c.Policy.Owner = "new" })
		wait(time.Hour)
		if n := cloud.writes(); n > 0 {
			t.Errorf("%d writes under another owner", n)
		}
		r.stop()
		start(t, cloud, desire(45, "web"), func(c *Config) { c.Policy.Owner, c.Policy.Former = "new", []Owner{"me"} })
		wait(time.Hour)
		if got := cloud.shown("z-1"); len(got) != 45 || got[0] != "web-0 A 10.0.0.0 new" || cloud.writes() != 50 {
			t.Errorf("%d writes to take over; the zone has %d records, the first %s", cloud.writes(), len(got), got[0])
		}
	})
}

func TestGraceReleases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "web", 50)
		cloud.seed("z-1", "", "foreign", 2)
		start(t, cloud, &fakeDesired{}, func(c *Config) { c.Limits.Grace = time.Hour })
		wait(59 * time.Minute)
		if n := cloud.deletes(); n > 0 {
			t.Errorf("%d deletes within the grace", n)
		}
		wait(5 * time.Minute)
		if got := cloud.shown("z-1"); len(got) != 2 {
			t.Errorf("what is left: %v", got)
		}
	})
}

func TestHoldAndReleaseByHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		r := start(t, cloud, desire(20, "web"))
		wait(time.Minute)
		if err := r.Hold("z-1", "maintenance"); err != nil {
			t.Error(err)
		}
		r.want("web-1")
		r.want("new", "A 10.0.0.1")
		wait(time.Hour)
		if n := cloud.deletes(); n > 0 || len(cloud.shown("z-1")) != 21 {
			t.Errorf("%d deletes on hold, %d records", n, len(cloud.shown("z-1")))
		}
		if err := r.Release("z-1"); err != nil {
			t.Error(err)
		}
		wait(time.Minute)
		if n := cloud.deletes(); n != 1 {
			t.Errorf("%d deletes after the release", n)
		}
		if r.Hold("z-9", "") == nil || r.Release("z-9") == nil {
			t.Error("a zone that is not there is held or released")
		}
	})
}

// TestTruncatedListing has the cloud drop rows from every other listing, and edits between pages.
func TestTruncatedListing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "web", 350)
		cloud.latency = 10 * time.Millisecond
		id := int64(0)
		cloud.fault = func(n int, call string, after bool) error {
			if after && call == "DescribeZoneRecords z-1 page 2" && n%3 > 0 {
				cloud.edit(aliyun.ZoneRecord{ID: id})
				id = cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: fmt.Sprint("new-", n), Type: "A", Value: "10.0.0.1", TTL: 60, Enabled: true})
			}
			return nil
		}
		r := start(t, cloud, desire(350, "web"), func(c *Config) { c.Audit = time.Hour })
		wait(24 * time.Hour)
		if n := cloud.writes(); n > 0 {
			t.Errorf("%d writes because pages drifted: %v", n, r.seen.reasons())
		}
	})
}

// TestAuditFindsWhatTheLogLacks loses the log of an edit.
func TestAuditFindsWhatTheLogLacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.seed("z-1", "me", "web", 30)
		r := start(t, cloud, desire(30, "web"), func(c *Config) { c.Audit = time.Hour })
		wait(time.Minute)
		cloud.edit(aliyun.ZoneRecord{ID: 1})
		cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "orphan", Type: "A", Value: "10.0.0.1", TTL: 60, Enabled: true, Remark: Owner("me").Remark(web)})
		cloud.mu.Lock()
		cloud.log = nil
		cloud.mu.Unlock()
		wait(62 * time.Minute)
		if got := cloud.shown("z-1"); len(got) != 30 || got[0] != "web-0 A 10.0.0.0 me" {
			t.Errorf("%d records, %v, told %v", len(got), got[0], r.seen.reasons())
		}
	})
}

// TestZoneThatAppears moves names to a more specific zone.
func TestZoneThatAppears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		d := &fakeDesired{}
		r := start(t, cloud, d)
		wait(time.Minute)
		r.want("web.eu", "A 10.0.0.1")
		wait(time.Minute)
		r.expect("web.eu A 10.0.0.1 me")
		cloud.mu.Lock()
		z := bound("z-2", "eu.corp")
		cloud.zones["z-2"] = &z
		cloud.mu.Unlock()
		wait(3 * time.Minute)
		r.expect()
		if got := cloud.shown("z-2"); !slices.Equal(got, []string{"web A 10.0.0.1 me"}) {
			t.Errorf("the new zone has %v", got)
		}
	})
}

// TestFlappingNameCostsAWritePerSecond changes one name all the time.
func TestFlappingNameCostsAWritePerSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		r := start(t, cloud, &fakeDesired{})
		wait(time.Second)
		before := cloud.count()
		for i := range 1000 {
			r.want("web", fmt.Sprintf("A 10.0.0.%d", i%7))
			wait(10 * time.Millisecond)
		}
		if n := cloud.count() - before; n > 12 {
			t.Errorf("%d calls in 10 seconds", n)
		}
		wait(2 * time.Second)
		r.expect(fmt.Sprintf("web A 10.0.0.%d me", 999%7))
	})
}

// TestOrderOfEventsDoesNotMatter applies the same changes in two orders.
func TestOrderOfEventsDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		final := map[string][]string{}
		for _, rr := range []string{"a", "b", "c", "d"} {
			for range rapid.IntRange(0, 3).Draw(rt, "values") {
				kind, value := drawValue(rt)
				final[rr] = append(final[rr], kind+" "+value)
			}
		}
		var zones [2][]string
		var writes int
		for i := range zones {
			order := rapid.Permutation([]string{"a", "b", "c", "d", "a", "b"}).Draw(rt, "order")
			synctest.Test(t, func(t *testing.T) {
				cloud := corp()
				cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "a", Type: "A", Value: "10.0.0.1", TTL: 60, Enabled: true})
				cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "b", Type: "CNAME", Value: "x.corp", TTL: 60, Enabled: true})
				r := start(t, cloud, &fakeDesired{})
				defer r.stop()
				for n, rr := range order {
					wait(time.Duration(rand.N(2)) * time.Second)
					if n < 2 {
						r.want(rr, "TXT passing")
					}
				}
				for _, rr := range order {
					r.want(rr, final[rr]...)
				}
				wait(20 * time.Second)
				zones[i], writes = cloud.shown("z-1"), cloud.writes()
				for _, rr := range order {
					r.want(rr, final[rr]...)
				}
				wait(20 * time.Second)
				if n := cloud.writes() - writes; n > 0 {
					rt.Fatalf("the same once more took %d writes", n)
				}
			})
		}
		if diff := cmp.Diff(zones[0], zones[1]); diff != "" {
			rt.Fatalf("two orders, two zones:\n%s", diff)
		}
	})
}

// TestWriteDuringAnAudit changes a record after an audit has read its page: what the page showed is old by then.
func TestWriteDuringAnAudit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := corp()
		cloud.latency = 50 * time.Millisecond
		cloud.seed("z-1", "me", "web", 650)
		var r *rig
		audits := 0
		cloud.fault = func(_ int, call string, after bool) error {
			if after && call == "DescribeZoneRecords z-1 page 1" {
				if audits++; audits == 2 {
					go r.want("web-0", "A 10.9.9.9")
				}
			}
			return nil
		}
		r = start(t, cloud, desire(650, "web"), func(c *Config) { c.Audit = time.Hour })
		wait(65 * time.Minute)
		if n := cloud.writes(); n != 1 || audits < 2 {
			t.Errorf("%d writes for one change, %d audits", n, audits)
		}
	})
}
