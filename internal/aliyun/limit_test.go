package aliyun_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// A wireless is the way to a simulated cloud without a network, which a bubble of synctest could not wait for.
type wireless struct {
	cloud   *sim.Cloud
	latency time.Duration
	// throttled calls follow every one that passes.
	throttled int

	mu  sync.Mutex // guards the fields below
	at  []time.Time
	bad int // calls left to throttle
}

func (w *wireless) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.at = append(w.at, time.Now())
	if w.bad == 0 {
		w.bad = w.throttled
	} else {
		w.bad--
		w.cloud.Throttle("", 1)
	}
	w.mu.Unlock()
	time.Sleep(w.latency)
	answer := httptest.NewRecorder()
	w.cloud.Handler().ServeHTTP(answer, r)
	return answer.Result(), nil
}

func (w *wireless) times() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.at)
}

func wirelessClient(t *testing.T, throttled int, cfg aliyun.Config) (*wireless, *aliyun.Client) {
	t.Helper()
	cloud, err := sim.New(sim.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	cfg.RegionID, cfg.Endpoint = sim.DefaultRegion, "127.0.0.1:1"
	cfg.Credentials = aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret}
	w := &wireless{cloud: cloud, throttled: throttled, latency: 50 * time.Millisecond}
	cfg.Transport = w
	client, err := aliyun.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w, client
}

// 80 % of the calls are throttled: the budget holds in every minute, and every one of twenty callers gets its share.
func TestThrottledCallsKeepTheBudgetAndNobodyStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, callers, hours = 30, 20, 4
		w, client := wirelessClient(t, 4, aliyun.Config{RateLimits: map[string]int{"DescribeInstanceTypes": rate}})
		ctx, cancel := context.WithTimeout(t.Context(), hours*time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		done := make([]int, callers)
		for i := range callers {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := client.DescribeInstanceType(ctx, "ecs.sim.small")
					if err == nil {
						done[i]++
					} else if !errors.Is(err, aliyun.ErrThrottled) {
						t.Errorf("caller %d: %v", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		at := w.times()
		for i := range at {
			j, _ := slices.BinarySearchFunc(at, at[i].Add(time.Minute), time.Time.Compare)
			if j-i > rate+rate/3 {
				t.Fatalf("%d calls in the minute from %v, want at most %d", j-i, at[i], rate+rate/3)
			}
		}
		if perMinute := float64(len(at)) / (hours * 60); perMinute < rate/6 || perMinute > rate/2 {
			t.Errorf("%.1f calls per minute: want the rate to have fallen, and not to have come to a stop", perMinute)
		}
		mean := 0
		for _, n := range done {
			mean += n
		}
		mean /= callers
		if least := slices.Min(done); mean == 0 || least < mean/2 {
			t.Errorf("calls that succeeded: %v; the least served has %d, and %d on average", done, least, mean)
		}
	})
}

// Tokens go to callers in the order they came, and one that gives up does not hold up the others.
func TestTokensAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := wirelessClient(t, 0, aliyun.Config{RateLimits: map[string]int{"DescribeInstanceTypes": 3}}) // a burst of one
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		quit, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("gave up")
		for i := range 6 {
			ctx := t.Context()
			if i == 3 {
				ctx = quit
			}
			wg.Go(func() {
				_, err := client.DescribeInstanceType(ctx, "ecs.sim.small")
				if i == 3 {
					if !errors.Is(err, reason) || !errors.Is(err, aliyun.ErrThrottled) {
						t.Errorf("a caller that gave up got %v", err)
					}
					return
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			synctest.Wait()
		}
		start := time.Now()
		cancel(reason)
		wg.Wait()
		if want := []int{0, 1, 2, 4, 5}; !slices.Equal(order, want) {
			t.Errorf("order is %v, want %v", order, want)
		}
		if took := time.Since(start); took < 79*time.Second || took > 85*time.Second {
			t.Errorf("four calls at 3 per minute took %v, want 80 s", took)
		}
	})
}

// The limit comes back when the cloud stops to throttle, and can be changed under callers that wait.
func TestLimitRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		w, client := wirelessClient(t, 0, aliyun.Config{Metrics: registry})
		describe := func() {
			if _, err := client.DescribeInstanceType(t.Context(), "ecs.sim.small"); err != nil {
				t.Fatal(err)
			}
		}
		w.cloud.Throttle("", 3)
		describe()
		if n := metric(t, registry, "nearpath_aliyun_limit_calls_per_minute", "DescribeInstanceTypes"); n > 20 {
			t.Errorf("after three refusals the limit is %.1f per minute", n)
		}
		time.Sleep(time.Minute)
		if n := metric(t, registry, "nearpath_aliyun_limit_calls_per_minute", "DescribeInstanceTypes"); n != 30 {
			t.Errorf("after a minute of quiet the limit is %.1f per minute, want 30", n)
		}
		if n := metric(t, registry, "nearpath_aliyun_calls_total", "DescribeInstanceTypes", "throttled"); n != 3 {
			t.Errorf("%v calls are counted as throttled, want 3", n)
		}
		if n := metric(t, registry, "nearpath_aliyun_calls_total", "DescribeInstanceTypes", "ok"); n != 1 {
			t.Errorf("%v calls are counted as ok, want 1", n)
		}
		if n := metric(t, registry, "nearpath_aliyun_call_duration_seconds", "DescribeInstanceTypes"); n < 0.2 || n > 0.21 {
			t.Errorf("four calls of 50 ms are counted as %v s", n)
		}

		for range 10 { // the burst
			describe()
		}
		if err := client.SetRateLimits(map[string]int{"DescribeInstanceTypes": 0}); err == nil {
			t.Error("a limit of zero was accepted")
		}
		if err := client.SetRateLimits(map[string]int{"DescribeInstanceTypes": 6}); err != nil {
			t.Fatal(err)
		}
		describe() // what was left of a token
		start := time.Now()
		describe()
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("a call at 6 per minute took %v, want 10 s", took)
		}
	})
}

// metric returns the value of the one metric of the family with these label values; of a histogram, the sum.
func metric(t *testing.T, r prometheus.Gatherer, family string, values ...string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if f.GetName() == family && slices.Equal(got, values) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
			}
		}
	}
	t.Fatalf("no metric %s%v", family, values)
	return 0
}
