package externaldns

import (
	"context"
	"fmt"
	"net/http/httptest"
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

// simConfig has one zone, at a multiple of the goals' pace.
func simConfig(times int) sim.Config {
	cfg := sim.DefaultConfig()
	cfg.PrivateZone.Zones = []sim.NewZone{{ID: simZone, Name: "corp", VPCs: []string{cfg.VPCID}}}
	cfg.RateLimits = sim.PrivateZoneLimits(20*float64(times), 0)
	cfg.Latencies = sim.PrivateZoneLatencies(sim.Fixed(50 * time.Millisecond / time.Duration(times)))
	return cfg
}

func newSim(t *testing.T, change func(*sim.Config)) *simCloud {
	t.Helper()
	cfg := simConfig(speedup)
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
