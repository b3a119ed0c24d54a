package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/ipam"
)

func TestNodeReport(t *testing.T) {
	t.Parallel()
	full := []ipam.VSwitchView{{ID: "vsw-1", Breaker: ipam.BreakerOpen}, {ID: "vsw-2", Breaker: ipam.BreakerHalfOpen}}
	for name, tt := range map[string]struct {
		stats     ipam.Stats
		vSwitches []ipam.VSwitchView
		reason    string
		names     string // what the message must name
	}{
		"room":             {ipam.Stats{Used: 3, Idle: 2, Capacity: 10}, nil, "SufficientIP", "3 of 10"},
		"full, other zone": {ipam.Stats{Used: 3, Capacity: 10}, append([]ipam.VSwitchView{{ID: "vsw-0", Zone: "b", Breaker: ipam.BreakerClosed}}, full...), "VSwitchFull", "vsw-2"},
		"all used":         {ipam.Stats{Used: 8, Kept: 2, Capacity: 10}, nil, "CapacityReached", "10"},
		"vSwitches full":   {ipam.Stats{Used: 3, Capacity: 10}, full, "VSwitchFull", "vsw-2"},
		"full, idle left":  {ipam.Stats{Used: 3, Idle: 1, Capacity: 10}, full, "SufficientIP", ""},
		"one full":         {ipam.Stats{Used: 3, Capacity: 10}, []ipam.VSwitchView{full[0], {ID: "vsw-3", Breaker: ipam.BreakerClosed}}, "SufficientIP", ""},
		"pods wait":        {ipam.Stats{Used: 3, Waiting: 4, Pending: 2, Capacity: 10}, nil, "InsufficientIP", "4 pods"},
		"pods will be had": {ipam.Stats{Used: 3, Waiting: 2, Pending: 2, Capacity: 10}, nil, "SufficientIP", ""},
	} {
		s := poolState{"a", tt.stats, ipam.Capacity{Shared: 10, Exclusive: 2}, tt.vSwitches, false}
		r := s.report()
		c := r.Conditions[0]
		if c.Reason != tt.reason || c.OK != (tt.reason == "SufficientIP") || !strings.Contains(c.Message, tt.names) {
			t.Errorf("%s: condition %+v, want %s", name, c, tt.reason)
		}
		if r.Resources[resourceIP] != 10 || r.Annotations[annotationMax] != "10" {
			t.Errorf("%s: report %+v", name, r)
		}
	}
}

// TestExclusiveNodeReport: where pods get ENIs of their own, these are what is counted.
func TestExclusiveNodeReport(t *testing.T) {
	t.Parallel()
	full := []ipam.VSwitchView{{ID: "vsw-1", Breaker: ipam.BreakerOpen}}
	for name, tt := range map[string]struct {
		stats     ipam.ExclusiveStats
		vSwitches []ipam.VSwitchView
		reason    string
		names     string
	}{
		"room":           {ipam.ExclusiveStats{Used: 1, Idle: 1}, nil, "SufficientIP", "1 of 2 ENIs"},
		"all used":       {ipam.ExclusiveStats{Used: 1, Kept: 1}, nil, "CapacityReached", "all 2 ENIs"},
		"vSwitches full": {ipam.ExclusiveStats{Used: 1}, full, "VSwitchFull", "vsw-1"},
		"pods wait":      {ipam.ExclusiveStats{Waiting: 1}, nil, "InsufficientIP", "1 pods"},
	} {
		s := poolState{"a", ipam.Stats{Exclusive: tt.stats}, ipam.Capacity{Shared: 10, Exclusive: 2}, tt.vSwitches, true}
		r := s.report()
		c := r.Conditions[0]
		if c.Reason != tt.reason || c.OK != (tt.reason == "SufficientIP") || !strings.Contains(c.Message, tt.names) {
			t.Errorf("%s: condition %+v, want %s", name, c, tt.reason)
		}
		if r.Resources[resourceIP] != 10 || r.Resources[resourceENI] != 2 || r.Annotations[annotationMax] != "2" {
			t.Errorf("%s: report %+v", name, r)
		}
	}
}

// TestPoolReport: the report follows the pool, and a shortage is an event once.
func TestPoolReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what the task's functions share with the test
		state := poolState{}
		var reports []cluster.NodeReport
		var warned []string
		p := &poolReport{
			read: func() poolState { mu.Lock(); defer mu.Unlock(); return state },
			set:  func(r cluster.NodeReport) { mu.Lock(); defer mu.Unlock(); reports = append(reports, r) },
			warn: func(_ cluster.Object, reason, _ string) {
				mu.Lock()
				defer mu.Unlock()
				warned = append(warned, reason)
			},
			ready: make(chan struct{}),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(10 * reportEvery)
		mu.Lock()
		if len(reports) != 0 {
			t.Error("a capacity nobody knows was reported")
		}
		state = poolState{stats: ipam.Stats{Used: 4, Capacity: 4}, capacity: ipam.Capacity{Shared: 4}}
		mu.Unlock()
		time.Sleep(10 * reportEvery)
		mu.Lock()
		if len(reports) == 0 || !slices.Equal(warned, []string{"CapacityReached"}) {
			t.Errorf("%d reports, warned of %v", len(reports), warned)
		}
		mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestKeepFor(t *testing.T) {
	t.Parallel()
	c := poolConfig{KeepFor: duration(time.Minute), KeepKinds: []string{"StatefulSet"}}
	for name, tt := range map[string]struct {
		pod  *cluster.Pod
		want time.Duration
	}{
		"gone":        {nil, 0},
		"Deployment":  {&cluster.Pod{Owner: cluster.Owner{Kind: "ReplicaSet"}}, 0},
		"StatefulSet": {&cluster.Pod{Owner: cluster.Owner{Kind: "StatefulSet"}}, time.Minute},
		"asked for":   {&cluster.Pod{Annotations: map[string]string{annotationKeep: "true"}}, time.Minute},
		"not asked":   {&cluster.Pod{Annotations: map[string]string{annotationKeep: "false"}}, 0},
	} {
		if got := keepFor(c, tt.pod); got != tt.want {
			t.Errorf("%s: kept for %s, want %s", name, got, tt.want)
		}
	}
}

// TestEgress: the kernel is left alone until the VPC's networks are known, and follows the configuration then.
func TestEgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what the task's functions share with the test
		c := defaultConfig()
		c.StateDir = t.TempDir()
		c.Egress = egressConfig{Mode: "node-snat", Exempt: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}
		away := errors.New("no answer")
		var applied []hostnet.Egress
		e := &egress{
			config: func() config { mu.Lock(); defer mu.Unlock(); return c }, services: func() []netip.Prefix { return nil },
			vpc: func(context.Context) (aliyun.VPC, error) {
				mu.Lock()
				defer mu.Unlock()
				return aliyun.VPC{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, IPv6CIDR: netip.MustParsePrefix("fd00::/56")}, away
			},
			apply: func(e hostnet.Egress) error {
				mu.Lock()
				defer mu.Unlock()
				applied = append(applied, e)
				return e.Check()
			},
			keep: func(e hostnet.Egress) error { return keepEgress(c, e) },
			log:  func(string, ...any) {}, changed: make(chan struct{}, 1), ready: make(chan struct{}),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		time.Sleep(3 * vpcRetry)
		mu.Lock()
		if len(applied) != 0 {
			t.Errorf("applied %v without knowing the VPC", applied)
		}
		if len(tasks{e}.waiting()) == 0 {
			t.Error("pods are let start before the way out is there")
		}
		away = nil
		mu.Unlock()
		time.Sleep(2 * vpcRetry)
		mu.Lock()
		if len(applied) != 1 || len(applied[0].VPC) != 2 || len(applied[0].Exempt) != 2 || applied[0].Mode != hostnet.EgressNodeSNAT {
			t.Errorf("applied %+v", applied)
		}
		if len(tasks{e}.waiting()) != 0 {
			t.Error("not ready after the first apply")
		}
		if kept := keptEgress(c); !reflect.DeepEqual(kept, applied[0]) {
			t.Errorf("kept %+v, want %+v", kept, applied[0])
		}
		c.Egress.Mode = "vpc"
		mu.Unlock()
		e.wake()
		synctest.Wait()
		if len(applied) != 2 || applied[1].Mode != hostnet.EgressNone {
			t.Errorf("applied %+v after the change", applied)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestKeptEgress: what an earlier agent kept is set without the cloud, and lets pods start.
func TestKeptEgress(t *testing.T) {
	t.Parallel()
	kept := hostnet.Egress{Mode: hostnet.EgressNodeSNAT, VPC: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	refused := errors.New("refused")
	for name, tt := range map[string]struct {
		mode  string
		kept  hostnet.Egress
		apply error
		ready bool
		want  []hostnet.EgressMode
	}{
		"kept":                 {"node-snat", kept, nil, true, []hostnet.EgressMode{hostnet.EgressNodeSNAT}},
		"the kernel refuses":   {"node-snat", kept, refused, true, []hostnet.EgressMode{hostnet.EgressNodeSNAT}},
		"nothing is kept":      {"node-snat", hostnet.Egress{}, nil, false, nil},
		"another mode":         {"none", kept, nil, true, []hostnet.EgressMode{hostnet.EgressNone}},
		"another mode refused": {"none", hostnet.Egress{}, refused, true, []hostnet.EgressMode{hostnet.EgressNone}},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := defaultConfig()
			c.StateDir, c.Egress.Mode = t.TempDir(), tt.mode
			if err := keepEgress(c, tt.kept); err != nil {
				t.Fatal(err)
			}
			var applied []hostnet.EgressMode
			e := &egress{
				config: func() config { return c }, services: func() []netip.Prefix { return nil }, kept: keptEgress(c), keep: func(hostnet.Egress) error { return nil },
				vpc: func(context.Context) (aliyun.VPC, error) { return aliyun.VPC{}, errors.New("no answer") },
				apply: func(e hostnet.Egress) error {
					applied = append(applied, e.Mode)
					return tt.apply
				},
				log: func(string, ...any) {}, changed: make(chan struct{}, 1), ready: make(chan struct{}),
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx) }()
			synctest.Wait()
			if ready := len(tasks{e}.waiting()) == 0; ready != tt.ready || !slices.Equal(applied, tt.want) {
				t.Errorf("%s: ready %t after %v, want %t after %v", name, ready, applied, tt.ready, tt.want)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeptEgressIsChecked(t *testing.T) {
	t.Parallel()
	c := defaultConfig()
	c.StateDir, c.Egress.Mode = t.TempDir(), "node-snat"
	for _, text := range []string{"", "{", `{"Mode":"node-snat"}`, `{"Mode":"node-snat","VPC":["10.0.0.1/8"]}`, `{"Mode":"none"}`} {
		if err := os.WriteFile(egressPath(c), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := keptEgress(c); got.Mode != "" {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
