package externaldns

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// The goals are shown with the real client on the simulator, at the pace of the cloud: 20 calls a second of each action,
// 50 ms each. Only the network between the two is left out, and time is synctest's: it passes when nobody has work.

// A direct transport hands requests to a handler.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// A paced cloud is the simulator at the cloud's pace, in a bubble.
type paced struct{ *simCloud }

func newPaced(t *testing.T, change func(*sim.Config)) *paced {
	t.Helper()
	cfg := simConfig(1)
	if change != nil {
		change(&cfg)
	}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	return &paced{&simCloud{Cloud: cloud}}
}

// start runs a Syncer with a client of its own, as every process has.
func (c *paced) start(t *testing.T, desired Desired, changes ...func(*Config)) *rig {
	t.Helper()
	client, err := aliyun.NewPrivateZone(aliyun.Config{
		RegionID: sim.DefaultRegion, PVTZEndpoint: "127.0.0.1:1", Transport: direct{c.Handler()},
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := desired.(*fakeDesired)
	return start(t, nil, d, append([]func(*Config){func(cfg *Config) { cfg.Cloud, cfg.Rate = client, client.Rate }}, changes...)...)
}

// until lets time pass until something holds, and returns how long that took, to the step.
func (c *paced) until(t *testing.T, what string, step time.Duration, done func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > time.Hour {
			t.Fatalf("not within an hour: %s", what)
		}
		time.Sleep(step)
	}
	return time.Since(began)
}

// idle lets time pass until nothing is to do.
func (c *paced) idle(t *testing.T, rigs ...*rig) {
	t.Helper()
	c.until(t, "nothing to do", 50*time.Millisecond, func() bool {
		return !slices.ContainsFunc(rigs, func(r *rig) bool { return r.Status().Pending != [lanes]int{} })
	})
	synctest.Wait()
}

// records counts those of the zone.
func (c *paced) records() int { return c.PrivateZone().Zones()[0].Records }

// setMany wants an address at n names of zone corp.
func (d *fakeDesired) setMany(name string, n int) (names []string) {
	for i := range n {
		rr := fmt.Sprint(name, "-", i)
		d.set(rr+".corp", wantsFor(rr, "A "+address(i)))
		names = append(names, rr+".corp")
	}
	return names
}

// quantiles are of durations.
func quantiles(took []time.Duration) (p50, p99 time.Duration) {
	took = slices.Sorted(slices.Values(took))
	return took[len(took)/2], took[len(took)*99/100]
}

// publish asks for an address, or for none, and returns how long it takes until the VPC's DNS answers so.
func (c *paced) publish(t *testing.T, r *rig, rr, had, address string) time.Duration {
	t.Helper()
	if address == "" {
		r.want(rr)
		return c.until(t, rr+" to be gone", time.Millisecond, func() bool { return !c.resolves(rr+".corp", had) })
	}
	r.want(rr, "A "+address)
	return c.until(t, rr, time.Millisecond, func() bool { return c.resolves(rr+".corp", address) })
}

// TestGoalPublish (G1, G2): a change costs one call and is answered at once, at 10,000 records.
func TestGoalPublish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const records, changes = 10_000, 300
		cloud := newPaced(t, nil)
		cloud.fill(t, records)
		r := cloud.start(t, desire(records, "web"), func(c *Config) { c.Poll, c.Stale = 24*time.Hour, 24*time.Hour })
		<-r.Ready()
		cloud.idle(t, r)
		had := ""
		for _, c := range []struct{ what, address, action string }{
			{"create", "10.99.0.1", "AddZoneRecord"}, {"update", "10.99.0.2", "UpdateZoneRecord"}, {"delete", "", "DeleteZoneRecord"},
		} {
			mark := cloud.last()
			var took []time.Duration
			for i := range changes {
				took = append(took, cloud.publish(t, r, fmt.Sprint("fresh-", i), had, c.address))
			}
			had = c.address
			cloud.idle(t, r)
			n, all, _ := cloud.calls(mark)
			p50, p99 := quantiles(took)
			t.Logf("%s: answered after p50 %v, p99 %v; %d changes took %v", c.what, p50, p99, changes, n)
			if p50 > 150*time.Millisecond || p99 > time.Second {
				t.Errorf("%s: p50 %v (at most 150 ms), p99 %v (at most 1 s)", c.what, p50, p99)
			}
			if n[c.action] != changes || all != changes {
				t.Errorf("%s: %d changes took %v", c.what, changes, n)
			}
		}
	})
}

// TestGoalStaleKnowledge (G2): before a record is changed that was not seen for long, it is looked at once.
func TestGoalStaleKnowledge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newPaced(t, nil)
		cloud.fill(t, 100)
		r := cloud.start(t, desire(100, "web"), func(c *Config) { c.Poll, c.Stale = 24*time.Hour, 5*time.Minute })
		<-r.Ready()
		time.Sleep(time.Hour)
		mark := cloud.last()
		cloud.publish(t, r, "web-1", address(1), "10.99.0.1")
		cloud.publish(t, r, "web-2", address(2), "")
		cloud.idle(t, r)
		n, all, _ := cloud.calls(mark)
		t.Logf("a change and a delete of what was last seen an hour ago: %v", n)
		if all != 4 || n["DescribeZoneRecords"] != 2 || n["UpdateZoneRecord"] != 1 || n["DeleteZoneRecord"] != 1 {
			t.Errorf("two changes took %v", n)
		}
	})
}

// TestGoalPublishBesideABacklog (G1): 10,000 names wait for their turn, and a change does not.
func TestGoalPublishBesideABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const backlog, changes = 10_000, 200
		cloud := newPaced(t, nil)
		r := cloud.start(t, desire(backlog, "web"))
		<-r.Ready()
		cloud.until(t, "the backlog under way", 100*time.Millisecond, func() bool { return cloud.records() > 20 })
		var took []time.Duration
		for i := range changes {
			took = append(took, cloud.publish(t, r, fmt.Sprint("fresh-", i), "", "10.99.0.1"))
		}
		left := backlog + changes - cloud.records()
		p50, p99 := quantiles(took)
		t.Logf("beside a backlog, of which %d names were left: answered after p50 %v, p99 %v", left, p50, p99)
		if left < backlog/2 {
			t.Fatal("the backlog was over: this shows nothing")
		}
		if p99 > 2*time.Second {
			t.Errorf("p99 %v, at most 2 s", p99)
		}
	})
}

// TestGoalIdle (G3): what it costs when nothing happens, at 10,000 records, and what an audit costs.
func TestGoalIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const records, minutes = 10_000, 180
		cloud := newPaced(t, nil)
		cloud.fill(t, records)
		time.Sleep(time.Hour)
		r := cloud.start(t, desire(records, "web"))
		<-r.Ready()
		time.Sleep(30 * time.Second)
		mark := cloud.last()
		time.Sleep(minutes * time.Minute)
		n, all, _ := cloud.calls(mark)
		t.Logf("idle: %.2f calls a minute over %d minutes: %v", float64(all)/minutes, minutes, n)
		if all > 2*minutes+1 {
			t.Errorf("%d calls in %d minutes, at most 2 a minute", all, minutes)
		}
		mark = cloud.last()
		time.Sleep(2 * time.Hour)
		n, _, _ = cloud.calls(mark)
		t.Logf("an audit: %d calls", n["DescribeZoneRecords"])
		if n["DescribeZoneRecords"] != records/pageSize {
			t.Errorf("an audit of %d records took %v", records, n)
		}
	})
}

// TestGoalIdleAfterABurst (G3): neither does a zone cost more that was quiet after many changes of ours.
func TestGoalIdleAfterABurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const records = 1000
		cloud := newPaced(t, nil)
		r := cloud.start(t, desire(records, "web"))
		cloud.until(t, "all records", 100*time.Millisecond, func() bool { return cloud.records() == records })
		time.Sleep(20 * time.Minute)
		mark := cloud.last()
		time.Sleep(time.Hour)
		n, all, _ := cloud.calls(mark)
		t.Logf("20 minutes after %d writes an idle hour costs %v", records, n)
		if all > 2*60+1 {
			t.Errorf("%d calls in an idle hour, at most 2 a minute", all)
		}
		r.stop()
	})
}

// TestGoalColdStart (G4): a start that finds everything as wanted lists, and writes nothing. It runs alone, as it looks at
// the heap.
func TestGoalColdStart(t *testing.T) {
	for _, goal := range []struct {
		records int
		within  time.Duration
		heap    uint64 // MiB
	}{{10_000, 10 * time.Second, 64}, {100_000, time.Minute, 400}} {
		synctest.Test(t, func(t *testing.T) {
			cloud := newPaced(t, nil)
			cloud.fill(t, goal.records)
			desired := desire(goal.records, "web")
			before := heapInUse()
			began := time.Now()
			r := cloud.start(t, desired)
			<-r.Ready()
			cloud.idle(t, r)
			took := time.Since(began)
			heap := (heapInUse() - before) >> 20
			n, all, _ := cloud.calls(0)
			t.Logf("cold start at %d records: %v, %d MiB of heap, %v", goal.records, took, heap, n)
			if took > goal.within || heap > goal.heap || all != goal.records/pageSize+1 {
				t.Errorf("cold start at %d records took %v (at most %v), %d MiB (at most %d) and %v", goal.records, took, goal.within, heap, goal.heap, n)
			}
			r.stop()
		})
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools kept goes with the second
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestGoalManyServices (G5): 1,000 Services at once take as long as the quota says, and hardly a call is throttled.
func TestGoalManyServices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const services = 1000
		cloud := newPaced(t, nil)
		desired := &fakeDesired{}
		r := cloud.start(t, desired)
		<-r.Ready()
		mark, began := cloud.last(), time.Now()
		r.Touch(desired.setMany("web", services)...)
		cloud.until(t, "all services", 100*time.Millisecond, func() bool { return cloud.records() == services })
		took, floor := time.Since(began), services*time.Second/20
		n, all, throttled := cloud.calls(mark)
		t.Logf("%d Services: %v, %.2f of the quota's floor, %d of %d calls throttled", services, took, float64(took)/float64(floor), throttled, all)
		if took > floor*11/10 || throttled*50 > all {
			t.Errorf("%v for %d Services, at most 1.1 of %v; %d of %d calls were throttled: %v", took, services, floor, throttled, all, n)
		}
	})
}

// TestGoalTwoInstances (G8): two without a Lease converge, and hardly hinder each other.
func TestGoalTwoInstances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const changes = 1000
		cloud := newPaced(t, nil)
		desired := &fakeDesired{}
		a, b := cloud.start(t, desired), cloud.start(t, desired)
		<-a.Ready()
		<-b.Ready()
		mark := cloud.last()
		names := desired.setMany("web", changes)
		a.Touch(names...)
		b.Touch(names...)
		cloud.until(t, "all records", 100*time.Millisecond, func() bool { return cloud.records() == changes })
		cloud.idle(t, a, b)
		n, all, throttled := cloud.calls(mark)
		t.Logf("%d changes by two: %.2f calls each, and %d throttled ones: %v", changes, float64(all-throttled)/changes, throttled, n)
		if all-throttled > changes*13/10 {
			t.Errorf("%d calls for %d changes, at most 1.3 each: %v", all-throttled, changes, n)
		}
		if audit := a.View().Audit(desired); !audit.Clean() || cloud.records() != changes {
			t.Errorf("%d records, %+v", cloud.records(), audit)
		}
	})
}

// TestGoalForeignDelete (G9): what somebody deletes is there again after the next poll, and looking for it costs nothing.
func TestGoalForeignDelete(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const records = 1000
		cloud := newPaced(t, nil)
		cloud.fill(t, records)
		r := cloud.start(t, desire(records, "web"))
		<-r.Ready()
		time.Sleep(30 * time.Minute)
		mark := cloud.last()
		var worst time.Duration
		for i := range 10 {
			time.Sleep(time.Duration(i) * 7 * time.Second)
			if err := cloud.PrivateZone().Remove(cloud.PrivateZone().Records(simZone)[i].ID); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, cloud.until(t, "the repair", 100*time.Millisecond, func() bool { return cloud.records() == records }))
		}
		n, _, _ := cloud.calls(mark)
		t.Logf("10 records that somebody deleted: there again after at most %v, with %v", worst, n)
		if worst > time.Minute+time.Second {
			t.Errorf("repaired after %v, at most a poll and 1 s", worst)
		}
		mark = cloud.last()
		time.Sleep(time.Hour)
		if n, all, _ := cloud.calls(mark); all > 2*60+1 {
			t.Errorf("afterwards an idle hour costs %v", n)
		}
	})
}

// TestGoalRefusedRecord (G13): one of 10,000 that the cloud refuses for good holds up no other, and its object hears of it.
func TestGoalRefusedRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const records, missing = 10_000, 1000
		cloud := newPaced(t, nil)
		cloud.fill(t, records-missing)
		time.Sleep(time.Hour)
		desired := desire(records, "web")
		bad := fmt.Sprint("web-", records-missing)
		desired.wants[bad+".corp"][0].TTL = 300
		r := cloud.start(t, desired)
		<-r.Ready()
		began := time.Now()
		cloud.until(t, "all others", 100*time.Millisecond, func() bool { return cloud.records() == records-1 })
		took, floor := time.Since(began), missing*time.Second/20
		t.Logf("%d others, of which %d were missing: %.2f of the quota's floor", records-1, missing-1, float64(took)/float64(floor))
		if took > floor*11/10 {
			t.Errorf("the others took %v, at most 1.1 of %v", took, floor)
		}
		if got := r.seen.reasons(); !slices.Equal(got, []string{"Service/default/" + bad + " RecordRefused"}) {
			t.Errorf("told %v", got)
		}
		wants := wantsFor("odd", "A 10.99.0.1")
		wants[0].TTL = 300
		desired.set("odd.corp", wants)
		r.Touch("odd.corp")
		told := cloud.until(t, "an event", time.Millisecond, func() bool { return slices.Contains(r.seen.reasons(), "Service/default/odd RecordRefused") })
		t.Logf("its object is told %v after it asked", told)
		if told > 5*time.Second {
			t.Errorf("told after %v, at most 5 s", told)
		}
		time.Sleep(20 * time.Minute)
		mark := cloud.last()
		time.Sleep(time.Hour)
		n, all, _ := cloud.calls(mark)
		t.Logf("an hour with two refused records: %v", n)
		if all > 2*60+10 {
			t.Errorf("two refused records cost %v in an hour", n)
		}
	})
}
