package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestLatencies(t *testing.T) {
	t.Parallel()
	c := newCloud(t, nil)
	for name, tc := range map[string]struct {
		l                  Latency
		least, median, p99 time.Duration
	}{
		"none":       {Latency{}, 0, 0, 0},
		"fixed":      {Fixed(time.Second), time.Second, time.Second, time.Second},
		"uniform":    {Uniform(time.Second, 3*time.Second), time.Second, 2 * time.Second, 2980 * time.Millisecond},
		"log-normal": {LogNormal(300*time.Millisecond, 2*time.Second), 0, 300 * time.Millisecond, 2 * time.Second},
	} {
		var drawn []time.Duration
		for i := range 20000 {
			drawn = append(drawn, tc.l.draw(c.rng(name, i)))
		}
		slices.Sort(drawn)
		near := func(got, want time.Duration) bool { return (got - want).Abs() <= want/8 }
		if median, p99 := drawn[10000], drawn[19800]; drawn[0] < tc.least || !near(median, tc.median) || !near(p99, tc.p99) {
			t.Errorf("%s: least %v, median %v, p99 %v; want %v, %v, %v", name, drawn[0], median, p99, tc.least, tc.median, tc.p99)
		}
	}
}

func TestLatencyText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Latency{
		"500ms": Fixed(500 * time.Millisecond), "0s": {}, "1s..3s": Uniform(time.Second, 3*time.Second), "2s..2s": Fixed(2 * time.Second),
		"p50=300ms p99=2s": LogNormal(300*time.Millisecond, 2*time.Second),
	} {
		var got Latency
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q = %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "-1s", "3s..1s", "p50=1s", "p50=2s p99=1s", "p50=0s p99=1s", "1s..", "p50=1s,p99=2s", "9999999h"} {
		if err := new(Latency).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		a := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "a"))
		b := a + time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "b"))
		for _, l := range []Latency{Fixed(a), Uniform(a, b), LogNormal(a+1, b+1)} {
			var got Latency
			if err := got.UnmarshalText([]byte(l.String())); err != nil || got.String() != l.String() {
				rt.Fatalf("%v reads as %v, %v", l, got, err)
			}
		}
	})
}

func FuzzLatency(f *testing.F) {
	f.Add("1s..3s")
	f.Add("p50=1ms p99=1h")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLatency(text)
		if err != nil {
			return
		}
		if again, err := parseLatency(l.String()); err != nil || again != l {
			t.Errorf("%q is %v, which reads as %v, %v", text, l, again, err)
		}
	})
}

func TestCallsAndStatesTakeTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &caller{cloud: newCloud(t, func(c *Config) {
			c.Latencies = map[string]Latency{"CreateNetworkInterface": Fixed(700 * time.Millisecond)}
			c.States = map[string]Latency{aliyun.StatusDeleting: Fixed(2 * time.Second)}
		})}
		start := time.Now()
		_, created := c.ecs(t, "CreateNetworkInterface", onPods())
		if took := time.Since(start); took != 700*time.Millisecond {
			t.Errorf("creation took %v", took)
		}
		c.ecs(t, "DeleteNetworkInterface", with("NetworkInterfaceId", created["NetworkInterfaceId"].(string)))
		time.Sleep(2*time.Second - time.Millisecond)
		if n := len(c.cloud.ENIs()); n != 1 {
			t.Errorf("%d ENIs before the deletion ends", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := len(c.cloud.ENIs()); n != 0 {
			t.Errorf("%d ENIs after the deletion", n)
		}
	})
}

// A change is seen by each viewer after its lag, and in the order in which changes were made.
func TestLag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &caller{cloud: newCloud(t, func(c *Config) {
			c.DescribeLag, c.MetadataLag = Fixed(time.Second), Fixed(3*time.Second)
		})}
		if _, _, err := c.cloud.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		_, created := c.ecs(t, "CreateNetworkInterface", onPods())
		id, mac := created["NetworkInterfaceId"].(string), created["MacAddress"].(string)
		c.ecs(t, "AttachNetworkInterface", with("NetworkInterfaceId", id, "InstanceId", "i-1"))
		expect := func(when, api string, metadata bool) {
			t.Helper()
			_, answer := c.ecs(t, "DescribeNetworkInterfaces", with("NetworkInterfaceId.1", id))
			same(t, when+", the API's status", get(answer, "NetworkInterfaceSets", "NetworkInterfaceSet", 0, "Status"), api)
			if _, ok := c.cloud.metadataOf("", "i-1")["network/interfaces/macs/"+mac+"/gateway"]; ok != metadata {
				t.Errorf("%s, the metadata has it: %v", when, ok)
			}
		}
		expect("at once", "none", false)
		time.Sleep(time.Second)
		expect("after 1 s", `"InUse"`, false)
		time.Sleep(2 * time.Second)
		expect("after 3 s", `"InUse"`, true)
		c.ecs(t, "DetachNetworkInterface", with("NetworkInterfaceId", id, "InstanceId", "i-1"))
		c.ecs(t, "DeleteNetworkInterface", with("NetworkInterfaceId", id))
		expect("gone", `"InUse"`, true)
		time.Sleep(time.Second)
		expect("gone for 1 s", "none", true)
		time.Sleep(2 * time.Second)
		expect("gone for 3 s", "none", false)
		if n := len(c.cloud.ghosts); n != 0 {
			t.Errorf("%d ENIs are remembered that nobody sees", n)
		}
	})
}

func TestTimelineKeepsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(0, 0)
		cfg := DefaultConfig()
		cfg.Now, cfg.DescribeLag, cfg.Seed = func() time.Time { return now }, Uniform(0, 10*time.Second), rapid.Uint64().Draw(rt, "seed")
		c, err := New(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		answer, err := c.createENI(input(onPods()))
		if err != nil {
			rt.Fatal(err)
		}
		id, last := answer["NetworkInterfaceId"].(string), 0
		for i := range 20 {
			if _, err := c.modifyENI(input{"NetworkInterfaceId": id, "QueueNumber": fmt.Sprint(i + 1)}); err != nil {
				rt.Fatal(err)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(rt, "ms")) * time.Millisecond)
			c.mu.Lock()
			for _, e := range c.shown(byAPI) {
				if e.QueueNumber < last {
					rt.Fatalf("after %d the API shows %d", last, e.QueueNumber)
				}
				last = e.QueueNumber
			}
			c.mu.Unlock()
		}
		now = now.Add(10 * time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := c.shown(byAPI)[0].QueueNumber; got != 20 {
			rt.Fatalf("in the end the API shows %d", got)
		}
	})
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &caller{cloud: newCloud(t, func(c *Config) {
		c.Now = func() time.Time { return now }
		c.AccessKeys["second"] = "s2"
		c.RateLimits = []RateLimit{
			{Action: "DescribeInstances", PerMinute: 60, Burst: 3}, {Action: "DescribeSecurityGroups", PerMinute: 1, Burst: 1, PerKey: true, Code: "Throttling.Api"},
			{PerMinute: 600, Burst: 10},
		}
	})}
	count := func(action string, tries int) (passed int) {
		for range tries {
			if status, answer := c.ecs(t, action, nil); status == 200 {
				passed++
			} else if code := answer["Code"]; status != 400 || code != "Throttling.User" && code != "Throttling.Api" {
				t.Fatalf("%s: %d %v", action, status, answer)
			}
		}
		return passed
	}
	if got := count("DescribeInstances", 5); got != 3 {
		t.Errorf("%d of 5 calls passed, want the burst of 3", got)
	}
	now = now.Add(2 * time.Second)
	if got := count("DescribeInstances", 5); got != 2 {
		t.Errorf("%d calls passed 2 s later, want 2", got)
	}
	if got := count("DescribeSecurityGroups", 2); got != 1 {
		t.Errorf("%d calls of the first key passed, want 1", got)
	}
	in := c.params(ecsVersion, "DescribeSecurityGroups", map[string]string{"AccessKeyId": "second"})
	in["Signature"] = sign(stringToSign("POST", in), "s2")
	if status, answer := c.post(t, in); status != 200 {
		t.Errorf("the second key shares the first one's bucket: %v", answer)
	}
	now = now.Add(time.Minute)
	if got := count("DescribeInstanceTypes", 20); got != 10 {
		t.Errorf("%d calls passed the limit of all, want 10", got)
	}
	c.cloud.SetRateLimits(nil)
	if got := count("DescribeInstances", 20); got != 20 {
		t.Errorf("%d of 20 calls passed without limits", got)
	}
}

// met returns which of n calls meet the fault.
func met(t *testing.T, seed uint64, n int, f Fault) (calls []int) {
	t.Helper()
	c := &caller{cloud: newCloud(t, func(c *Config) { c.Seed = seed })}
	c.cloud.Inject(f)
	for i := range n {
		c.ecs(t, "DescribeInstanceTypes", nil) // of which nothing is seen
		if status, answer := c.ecs(t, "DescribeInstances", nil); status != 200 {
			if answer["Code"] != "InternalError" || status != 500 {
				t.Fatalf("%d %v", status, answer)
			}
			calls = append(calls, i+1)
		}
	}
	return calls
}

func TestFaultConditions(t *testing.T) {
	t.Parallel()
	fault := func(f Fault) Fault { f.Action, f.Code = "DescribeInstances", codeInternal; return f }
	for want, f := range map[string]Fault{
		"[1]": {}, "[1 2 3]": {Times: 3}, "[4]": {Call: 4}, "[3 6 9 12]": {Every: 3}, "[5 10]": {Every: 5, Times: 2},
		"[1 2 3 4 5 6 7 8 9 10 11 12]": {Times: -1}, "[]": {Call: 13},
	} {
		if got := fmt.Sprint(met(t, 0, 12, fault(f))); got != want {
			t.Errorf("%+v meets %s, want %s", f, got, want)
		}
	}
	chance := fault(Fault{Probability: 0.3})
	one, again, other := met(t, 1, 200, chance), met(t, 1, 200, chance), met(t, 2, 200, chance)
	if !slices.Equal(one, again) || slices.Equal(one, other) || len(one) < 40 || len(one) > 80 {
		t.Errorf("with a chance of 0.3 of 200: %d calls, the same seed gives the same %v, another the same %v", len(one), slices.Equal(one, again), slices.Equal(one, other))
	}
}

func TestFaultHooks(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, nil)}
	var seen []string
	note := func(when string) func(Call) {
		return func(call Call) {
			seen = append(seen, fmt.Sprint(when, " ", call.Action, " ", call.Number, " ", call.Params["VSwitchId"], " ", len(c.cloud.ENIs())))
		}
	}
	c.cloud.Inject(Fault{Action: "CreateNetworkInterface", Times: 2, Before: note("before"), After: note("after")})
	for range 3 {
		c.ecs(t, "CreateNetworkInterface", onPods())
	}
	want := []string{
		"before CreateNetworkInterface 1 vsw-pods 0", "after CreateNetworkInterface 1 vsw-pods 1",
		"before CreateNetworkInterface 2 vsw-pods 1", "after CreateNetworkInterface 2 vsw-pods 2",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("hooks saw %q, want %q", seen, want)
	}
}

// A call hangs where it is told to, until it is released or its client is gone.
func TestHang(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		point             HangPoint
		during, afterGone int // ENIs while it hangs, and after its client went away
	}{{HangBefore, 0, 0}, {HangAfter, 1, 1}} {
		for _, goes := range []bool{false, true} {
			c := &caller{cloud: newCloud(t, nil)}
			i := c.cloud.Inject(Fault{Action: "CreateNetworkInterface", Hang: tc.point})
			in := c.params(ecsVersion, "CreateNetworkInterface", onPods())
			in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
			ctx, leave := context.WithCancel(t.Context())
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				c.cloud.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, "/?"+encode(in), nil))
			}()
			if err := i.WaitHanging(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := len(c.cloud.ENIs()); got != tc.during {
				t.Errorf("hangs %s the effect with %d ENIs", tc.point, got)
			}
			want := 1
			if goes {
				leave()
				want = tc.afterGone
			} else {
				i.Release()
			}
			<-answered
			if got := len(c.cloud.ENIs()); got != want {
				t.Errorf("%s, client goes %v: %d ENIs, want %d", tc.point, goes, got, want)
			}
			if met, hanging := i.Met(); met != 1 || hanging != 0 {
				t.Errorf("met %d, %d hang", met, hanging)
			}
			leave()
		}
	}
	i := newCloud(t, nil).Inject(Fault{Hang: HangBefore})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.WaitHanging(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting without end: %v", err)
	}
}

func TestAttachFailure(t *testing.T) {
	t.Parallel()
	outcome := func(seed uint64) (statuses []string) {
		c := &caller{cloud: newCloud(t, func(c *Config) { c.AttachFailure, c.Seed = 0.5, seed })}
		for i := range 20 {
			id := fmt.Sprint("i-", i)
			if _, _, err := c.cloud.RunInstance(t.Context(), InstanceSpec{ID: id, Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch}); err != nil {
				t.Fatal(err)
			}
			_, created := c.ecs(t, "CreateNetworkInterface", onPods())
			if status, answer := c.ecs(t, "AttachNetworkInterface", with("NetworkInterfaceId", created["NetworkInterfaceId"].(string), "InstanceId", id)); status != 200 {
				t.Fatal(answer)
			}
		}
		for _, e := range c.cloud.ENIs() {
			if e.Type == aliyun.TypeSecondary {
				statuses = append(statuses, e.Status)
			}
		}
		return statuses
	}
	first := outcome(7)
	if !slices.Contains(first, aliyun.StatusAvailable) || !slices.Contains(first, aliyun.StatusInUse) || !slices.Equal(first, outcome(7)) {
		t.Errorf("attachments end as %v, and with the same seed as %v", first, outcome(7))
	}
}

// Two calls change one ENI at once: the second waits, or is refused where conflicts are.
func TestConflicts(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := &caller{cloud: newCloud(t, func(c *Config) { c.Conflicts, c.Delays.Assign = refused, time.Second })}
			_, created := c.ecs(t, "CreateNetworkInterface", onPods())
			id := created["NetworkInterfaceId"].(string)
			assign := with("NetworkInterfaceId", id, "SecondaryPrivateIpAddressCount", "1")
			in := c.params(ecsVersion, "AssignPrivateIpAddresses", assign)
			in["Signature"] = sign(stringToSign("POST", in), DefaultAccessSecret)
			first := make(chan int)
			go func() { status, _ := c.post(t, in); first <- status }()
			synctest.Wait()
			status, answer := c.ecs(t, "AssignPrivateIpAddresses", assign)
			if want := map[bool]int{false: 200, true: 403}[refused]; status != want || refused && answer["Code"] != codeConflict {
				t.Errorf("refused %v: %d %v", refused, status, answer)
			}
			if got := <-first; got != 200 {
				t.Errorf("the first call: %d", got)
			}
		})
	}
}

// Whoever failed inside may have done something: its client token is spoilt.
func TestIdempotentFailed(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := &caller{cloud: newCloud(t, func(c *Config) { c.Fabric = fabric })}
	_, e, err := c.cloud.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"})
	if err != nil {
		t.Fatal(err)
	}
	assign := with("NetworkInterfaceId", e.ID, "SecondaryPrivateIpAddressCount", "1", "ClientToken", "t")
	fabric.setFail(true)
	if status, answer := c.ecs(t, "AssignPrivateIpAddresses", assign); status != 500 || answer["Code"] != codeInternal {
		t.Errorf("without a fabric: %d %v", status, answer)
	}
	fabric.setFail(false)
	if status, answer := c.ecs(t, "AssignPrivateIpAddresses", assign); status != 400 || answer["Code"] != codeIdempotentFailed {
		t.Errorf("same token: %d %v", status, answer)
	}
	assign["ClientToken"] = "u"
	if status, answer := c.ecs(t, "AssignPrivateIpAddresses", assign); status != 200 {
		t.Errorf("other token: %d %v", status, answer)
	}
}

func TestManualClock(t *testing.T) {
	t.Parallel()
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := NewManualClock(start, false)
	fired, stop := clock.NewTimer(time.Minute)
	defer stop()
	_, dropped := clock.NewTimer(time.Minute)
	dropped()
	dropped()
	clock.Advance(time.Minute - 1)
	select {
	case <-fired:
		t.Error("the timer fires early")
	default:
	}
	clock.Advance(1)
	<-fired
	if now := clock.Now(); !now.Equal(start.Add(time.Minute)) {
		t.Errorf("the clock says %v", now)
	}
	now, _ := clock.NewTimer(0)
	<-now
	synctest.Test(t, func(t *testing.T) {
		running := NewManualClock(start, true)
		fired, _ := running.NewTimer(time.Hour)
		jumped, _ := running.NewTimer(2 * time.Hour)
		time.Sleep(time.Hour)
		<-fired
		running.Advance(time.Hour)
		<-jumped
		if got := running.Now().Sub(start); got != 2*time.Hour {
			t.Errorf("the running clock moved %v", got)
		}
	})
}

// The clock ends keys, tokens and states.
func TestCloudOnAManualClock(t *testing.T) {
	t.Parallel()
	clock := NewManualClock(time.Now(), false)
	c := &caller{cloud: newCloud(t, func(c *Config) { c.Clock, c.Delays.Delete = clock, time.Hour })}
	_, created := c.ecs(t, "CreateNetworkInterface", onPods())
	c.ecs(t, "DeleteNetworkInterface", with("NetworkInterfaceId", created["NetworkInterfaceId"].(string)))
	c.cloud.mu.Lock()
	s := c.cloud.sessionOf("i-1", clock.Now())
	c.cloud.mu.Unlock()
	clock.Advance(time.Hour)
	c.cloud.pending.Wait()
	if n := len(c.cloud.ENIs()); n != 0 {
		t.Errorf("%d ENIs after the deletion", n)
	}
	in := c.params(ecsVersion, "DescribeInstances", map[string]string{"AccessKeyId": s.id, "SecurityToken": s.token})
	in["Signature"] = sign(stringToSign("POST", in), s.secret)
	if _, answer := c.post(t, in); answer["Code"] != codeTokenExpired {
		t.Errorf("an hour later: %v", answer)
	}
}

func TestClockSkew(t *testing.T) {
	t.Parallel()
	c := &caller{cloud: newCloud(t, func(c *Config) { c.ClockSkew = -1 })}
	if status, answer := c.ecs(t, "DescribeInstances", with("Timestamp", "2001-01-01T00:00:00Z")); status != 200 {
		t.Errorf("any time: %v", answer)
	}
}

func TestIgnoreUnknown(t *testing.T) {
	t.Parallel()
	for _, ignore := range []bool{false, true} {
		c := &caller{cloud: newCloud(t, func(c *Config) { c.IgnoreUnknown = ignore })}
		status, _ := c.ecs(t, "DescribeInstances", with("Colour", "red", "OwnerAccount", "me"))
		if (status == 200) != ignore {
			t.Errorf("ignored %v: %d", ignore, status)
		}
	}
}
