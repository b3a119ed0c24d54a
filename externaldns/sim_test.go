package externaldns

import (
	"context"
	"fmt"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// The simulator runs at speedup times the goals' pace: 20 calls a second and 50 ms become 200 and 5 ms.
const speedup = 10

const simZone = "0123456789abcdef0123456789abcdef"

// A simCloud is the simulator behind its HTTP API.
type simCloud struct {
	*sim.Cloud
	url string
}

func newSim(t *testing.T, change func(*sim.Config)) *simCloud {
	t.Helper()
	cfg := sim.DefaultConfig()
	cfg.PrivateZone.Zones = []sim.NewZone{{ID: simZone, Name: "corp", VPCs: []string{cfg.VPCID}}}
	cfg.RateLimits = sim.PrivateZoneLimits(20*speedup, 0)
	cfg.Latencies = sim.PrivateZoneLatencies(sim.Fixed(50 * time.Millisecond / speedup))
	if change != nil {
		change(&cfg)
	}
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(cloud.Handler())
	t.Cleanup(func() {
		server.Close()
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	return &simCloud{cloud, server.URL}
}

// client is a client of its own budget, as every process has.
func (c *simCloud) client(t *testing.T) *aliyun.PrivateZone {
	t.Helper()
	rates := map[string]int{}
	for _, action := range sim.PrivateZoneActions() {
		rates[action] = 20 * 60 * speedup
	}
	client, err := aliyun.NewPrivateZone(aliyun.Config{
		RegionID: sim.DefaultRegion, PVTZEndpoint: c.url, RateLimits: rates,
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// calls counts those since a number in the log, by action, and the throttled ones.
func (c *simCloud) calls(since int) (n map[string]int, all, throttled int) {
	n = map[string]int{}
	for _, call := range c.CallLog(since) {
		n[call.Action]++
		all++
		if call.Code != "" && call.Code[0] == 'T' {
			throttled++
		}
	}
	return n, all, throttled
}

func (c *simCloud) last() int {
	log := c.CallLog(0)
	if len(log) == 0 {
		return 0
	}
	return log[len(log)-1].Seq
}

// resolves asks the DNS of the VPC.
func (c *simCloud) resolves(name, address string) bool {
	answer := c.PrivateZone().Resolver(sim.DefaultVPC).Answer(new(dns.Msg).SetQuestion(name+".", dns.TypeA))
	return slices.ContainsFunc(answer.Answer, func(rr dns.RR) bool {
		a, ok := rr.(*dns.A)
		return ok && a.A.String() == address
	})
}

func (c *simCloud) fill(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		rr := fmt.Sprint("web-", i)
		if _, err := c.PrivateZone().Add(aliyun.ZoneRecord{
			ZoneID: simZone, RR: rr, Type: "A", Value: address(i), TTL: 60, Remark: Owner("me").Remark(service(rr)),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *simCloud) start(t *testing.T, desired *fakeDesired, changes ...func(*Config)) *rig {
	t.Helper()
	client := c.client(t)
	return start(t, nil, desired, append([]func(*Config){func(cfg *Config) { cfg.Cloud, cfg.Rate = client, client.Rate }}, changes...)...)
}

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) time.Duration {
	t.Helper()
	started := time.Now()
	for !done() {
		if time.Since(started) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(started)
}

// idle waits until the Syncer has nothing to do.
func idle(t *testing.T, rigs ...*rig) {
	t.Helper()
	until(t, "nothing to do", func() bool {
		for _, r := range rigs {
			if r.Status().Pending != [lanes]int{} {
				return false
			}
		}
		return true
	})
}

// TestGoalsOnTheSimulator shows what changes cost and how long they take, at 10,000 records.
func TestGoalsOnTheSimulator(t *testing.T) {
	const records = 10_000
	cloud := newSim(t, nil)
	cloud.fill(t, records)
	desired := desire(records, "web")
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	r := cloud.start(t, desired, func(c *Config) { c.Poll = time.Hour })
	<-r.Ready()
	idle(t, r)
	n, all, _ := cloud.calls(0)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("cold start: %v at %dx pace, %v, %d MiB of heap for the syncer", time.Since(started), speedup, n, (after.HeapAlloc-before.HeapAlloc)>>20)
	if want := records/pageSize + 1; all != want {
		t.Errorf("a converged start took %d calls, want %d: %v", all, want, n)
	}

	var took []time.Duration
	for _, c := range []struct {
		what, value string
		action      string
	}{{"create", "10.99.0.1", "AddZoneRecord"}, {"change", "10.99.0.2", "UpdateZoneRecord"}, {"delete", "", "DeleteZoneRecord"}} {
		mark := cloud.last()
		for i := range 20 {
			rr := fmt.Sprint("fresh-", i)
			if c.value == "" {
				r.want(rr)
				until(t, c.what, func() bool { return !cloud.resolves(rr+".corp", "10.99.0.2") })
				continue
			}
			r.want(rr, "A "+c.value)
			took = append(took, until(t, c.what, func() bool { return cloud.resolves(rr+".corp", c.value) }))
		}
		idle(t, r)
		if n, all, _ := cloud.calls(mark); all != 20 || n[c.action] != 20 {
			t.Errorf("20 times %s took %v", c.what, n)
		}
	}
	creates := took[:20]
	slices.Sort(creates)
	t.Logf("create to answer: p50 %v, the slowest %v at %dx pace", creates[10], creates[19], speedup)
}

func TestManyServicesOnTheSimulator(t *testing.T) {
	const services = 500
	cloud := newSim(t, nil)
	desired := &fakeDesired{}
	r := cloud.start(t, desired)
	<-r.Ready()
	mark := cloud.last()
	var names []string
	for i := range services {
		rr := fmt.Sprint("web-", i)
		desired.set(rr+".corp", wantsFor(rr, "A "+address(i)))
		names = append(names, rr+".corp")
	}
	started := time.Now()
	r.Touch(names...)
	until(t, "all services", func() bool { return len(cloud.PrivateZone().Records(simZone)) == services })
	n, all, throttled := cloud.calls(mark)
	floor := time.Duration(services) * time.Second / 20 / speedup
	t.Logf("%d services: %v, %.2f of the floor, %d throttled, %v", services, time.Since(started), float64(time.Since(started))/float64(floor), throttled, n)
	if adds := n["AddZoneRecord"] - throttled; adds > services || all-throttled > services+10 {
		t.Errorf("%d calls for %d services: %v", all, services, n)
	}
}

func TestTwoInstancesOnTheSimulator(t *testing.T) {
	const changes = 500
	cloud := newSim(t, nil)
	desired := &fakeDesired{}
	a, b := cloud.start(t, desired), cloud.start(t, desired)
	<-a.Ready()
	<-b.Ready()
	var names []string
	for i := range changes {
		rr := fmt.Sprint("web-", i)
		desired.set(rr+".corp", wantsFor(rr, "A "+address(i)))
		names = append(names, rr+".corp")
	}
	mark := cloud.last()
	a.Touch(names...)
	b.Touch(names...)
	until(t, "all records", func() bool { return len(cloud.PrivateZone().Records(simZone)) == changes })
	idle(t, a, b)
	n, all, throttled := cloud.calls(mark)
	t.Logf("%d changes by two: %d calls, of which %d throttled, %v", changes, all, throttled, n)
	if effective := all - throttled; effective > changes*13/10 {
		t.Errorf("%d calls for %d changes: %v", effective, changes, n)
	}
}

func TestForeignDeleteIsRepairedOnTheSimulator(t *testing.T) {
	cloud := newSim(t, nil)
	r := cloud.start(t, desire(200, "web"), func(c *Config) { c.Poll = time.Second })
	until(t, "all records", func() bool { return len(cloud.PrivateZone().Records(simZone)) == 200 })
	idle(t, r)
	for _, record := range cloud.PrivateZone().Records(simZone)[:3] {
		if err := cloud.PrivateZone().Remove(record.ID); err != nil {
			t.Fatal(err)
		}
	}
	took := until(t, "the repair", func() bool { return len(cloud.PrivateZone().Records(simZone)) == 200 })
	t.Logf("repaired after %v with polls every second", took)
}

// TestSwitchesOfTheSimulator has everything the vendor leaves open both ways, with answers lost, calls done twice and late,
// and errors in between.
func TestSwitchesOfTheSimulator(t *testing.T) {
	for name, change := range map[string]func(*sim.PrivateZoneConfig){
		"strict":       func(*sim.PrivateZoneConfig) {},
		"no tokens":    func(c *sim.PrivateZoneConfig) { c.IgnoreTokens = true },
		"bare log":     func(c *sim.PrivateZoneConfig) { c.BareLog = true },
		"late log":     func(c *sim.PrivateZoneConfig) { c.LogLag = 2 * time.Second },
		"stale zones":  func(c *sim.PrivateZoneConfig) { c.StaleZones = true },
		"new IDs":      func(c *sim.PrivateZoneConfig) { c.RenumberOnUpdate = true },
		"newest first": func(c *sim.PrivateZoneConfig) { c.NewestFirst = true },
		"all at a time": func(c *sim.PrivateZoneConfig) {
			c.BareLog, c.StaleZones, c.RenumberOnUpdate, c.NewestFirst = true, true, true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cloud := newSim(t, func(c *sim.Config) {
				change(&c.PrivateZone)
				c.Faults = []sim.Fault{
					{Action: "AddZoneRecord", Every: 7, LoseAnswer: true}, {Action: "AddZoneRecord", Every: 11, Code: "ServiceUnavailable"},
					{Action: "UpdateZoneRecord", Every: 5, LoseAnswer: true}, {Action: "DeleteZoneRecord", Every: 5, LoseAnswer: true},
				}
			})
			cloud.PrivateZone().Duplicate(sim.Duplicate{Action: "AddZoneRecord", Times: 3})
			cloud.PrivateZone().Duplicate(sim.Duplicate{Action: "AddZoneRecord", Times: 3, Late: true})
			desired := desire(60, "web")
			r := cloud.start(t, desired, func(c *Config) { c.Poll, c.Limits.Percent = time.Second, 100 })
			converge := func() {
				until(t, "as wanted", func() bool {
					v, err := Load(context.Background(), cloud.client(t), Scope{}, me)
					return err == nil && v.Audit(desired).Clean() && len(v.Records(nil)) == len(desired.wants)
				})
			}
			converge()
			for i := range 60 {
				switch i % 3 {
				case 0:
					r.want(fmt.Sprint("web-", i))
				case 1:
					r.want(fmt.Sprint("web-", i), "A 10.77.0.1")
				}
			}
			converge()
		})
	}
}

// TestRefusalsOfTheSimulator: what is wrong with the whole is one clear Problem, and ends nothing.
func TestRefusalsOfTheSimulator(t *testing.T) {
	cloud := newSim(t, func(c *sim.Config) {
		c.PrivateZone.Zones = append(c.PrivateZone.Zones, sim.NewZone{ID: "fedcba9876543210fedcba9876543210", Name: "unbound.org"})
	})
	desired := desire(3, "web")
	for rr, values := range map[string][]string{"bad value": {"A 10.0.0.1"}, "ttl": {"A 10.0.0.1"}} {
		desired.set(rr+".corp", wantsFor(rr, values...))
	}
	desired.wants["ttl.corp"][0].TTL = 300
	desired.set("web.unbound.org", []Want{{Name: "web.unbound.org", Type: "A", Value: "10.0.0.1", TTL: 60, Object: service("unbound")}})
	r := cloud.start(t, desired, func(c *Config) { c.Scope.ZoneIDs = []string{simZone, "fedcba9876543210fedcba9876543210", "missing"} })
	want := []string{
		"PrivateZone/fedcba9876543210fedcba9876543210 ZoneBarred", "PrivateZone/missing ZoneNotFound",
		"Service/default/bad value RecordRefused", "Service/default/ttl RecordRefused",
	}
	until(t, "the problems and the other records", func() bool {
		return slices.Equal(r.seen.reasons(), want) && len(cloud.PrivateZone().Records(simZone)) == 3
	})

	client, err := aliyun.NewPrivateZone(aliyun.Config{
		RegionID: sim.DefaultRegion, PVTZEndpoint: cloud.url, Credentials: aliyun.StaticCredentials{AccessKeyID: "LTAI-unknown", AccessKeySecret: "x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	refused := start(t, nil, desired, func(c *Config) { c.Cloud = client })
	until(t, "the refusal", func() bool { return slices.Equal(refused.seen.reasons(), []string{"PrivateZone/ CloudRefused"}) })
}
