package aliyun_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// By default the account's whole rate is used, and little is saved up.
func TestPrivateZoneRate(t *testing.T) {
	t.Parallel()
	client := zoneClient(t, aliyun.Config{Endpoint: "127.0.0.1:1", RateLimits: map[string]int{"DescribeZones": 60}})
	if got := client.Rate("AddZoneRecord"); got != 20 {
		t.Errorf("rate is %v per second, want 20", got)
	}
	if got := client.Rate("DescribeZones"); got != 1 {
		t.Errorf("configured rate is %v per second, want 1", got)
	}
	if err := client.SetRateLimits(map[string]int{"AddZoneRecord": 600}); err != nil || client.Rate("AddZoneRecord") != 10 {
		t.Errorf("rate is %v per second after a change (%v), want 10", client.Rate("AddZoneRecord"), err)
	}
}

// The cloud counts by the second, so no second has much more than the rate.
func TestPrivateZoneBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud, err := sim.New(sim.DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer cloud.Close()
		w := &wireless{cloud: cloud}
		client := zoneClient(t, aliyun.Config{Endpoint: "127.0.0.1:1", Transport: w, RateLimits: map[string]int{"AddZone": 60}})
		for start := time.Now(); time.Since(start) < 10*time.Second; {
			if _, err := client.DescribeServiceStatus(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		at := w.times()
		for i := range at {
			j, _ := slices.BinarySearchFunc(at, at[i].Add(time.Second), time.Time.Compare)
			if j-i > 31 {
				t.Fatalf("%d calls in the second from %v, want at most 30 and the first of the next", j-i, at[i])
			}
		}
		if len(at) < 205 {
			t.Errorf("%d calls in 10 s, want 210", len(at))
		}
	})
}

// A client at the service's rate is hardly ever throttled, and comes close to the rate.
func TestRateOfAnAccountIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sim.DefaultConfig()
		cfg.RateLimits, cfg.Latencies = sim.PrivateZoneLimits(200, 0), sim.PrivateZoneLatencies(sim.Fixed(5*time.Millisecond))
		cloud, err := sim.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer cloud.Close()
		client := zoneClient(t, aliyun.Config{Endpoint: "127.0.0.1:1", Transport: &wireless{cloud: cloud}, RateLimits: map[string]int{"DescribeZoneRecord": 200 * 60}})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		done := make(chan int)
		for range 8 {
			go func() {
				n := 0
				for ctx.Err() == nil {
					if _, err := client.DescribeRecord(ctx, 1); errors.Is(err, aliyun.ErrNotFound) {
						n++
					}
				}
				done <- n
			}()
		}
		served := 0
		for range 8 {
			served += <-done
		}
		throttled := 0
		for _, call := range cloud.CallLog(0) {
			if call.Code == "Throttling.User" {
				throttled++
			}
		}
		if served < 570 || throttled > served/50 {
			t.Errorf("%d calls in 3 s and %d throttled: want close to 600, and at most one in fifty", served, throttled)
		}
	})
}
