//go:build node

package churn

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/test/netlab"
)

var net4 = net.IPNet{IP: backendNet.Addr().AsSlice(), Mask: net.CIDRMask(backendNet.Bits(), 32)}

const (
	// ports are the Service ports beside which the target changes.
	ports = 10_000
	// churnTime is how long the churn goes on.
	churnTime = 15 * time.Second
	// soon is when half of the changes are in the kernel; on a machine to itself 99 of 100 are, and the figure is printed. What a
	// loaded machine does to any process may make 1 of 100 later than that, and no connection later than late.
	soon, late = 10 * time.Millisecond, time.Second
	// targetChanges and otherChanges are endpoint changes a second: of the target, and of all others together.
	targetChanges, otherChanges = 50, 100
	connections                 = 2000
)

// An agent is the parts of one that serve Services, on a node of a lab: everything but where objects come from.
type agent struct {
	store    *cluster.Store
	datapath *bpf.Datapath
	metrics  *prometheus.Registry
}

// startAgent starts one and waits until it serves. It calls served after each change that is in the kernel.
func startAgent(t *testing.T, n *netlab.Node, store *cluster.Store, served func(cluster.Change)) *agent {
	t.Helper()
	a := &agent{store: store, metrics: prometheus.NewRegistry()}
	var cookie uint64
	ok(t, n.NetNS().Do(func() (err error) {
		cookie, err = bpf.NetNSCookie()
		return err
	}))
	var err error
	a.datapath, err = bpf.Load(bpf.Config{
		PinDir: n.MachinePath("/sys/fs/bpf/nearpath"), CgroupRoot: n.CgroupPath(), HostNetNSCookie: cookie,
	})
	ok(t, err)
	t.Cleanup(func() { ok(t, a.datapath.Close()) })
	changes := store.Subscribe(cluster.Services)
	t.Cleanup(changes.Close)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var reaper *service.Reaper
	reconciler, err := service.New(service.Config{
		Maps: a.datapath.Services, Changes: changes, Node: service.Node{Name: "node"}, Log: log, Metrics: a.metrics,
		Served: served, Withdrawn: func() { reaper.Withdrawn() },
	})
	ok(t, err)
	reaper, err = service.NewReaper(service.ReaperConfig{
		Open: func() (service.Sockets, error) {
			return a.datapath.NewReaper(func(uint64) (*os.File, error) { return os.Open(n.NetNS().Path()) })
		},
		Named: a.datapath.Services.Named, Synced: reconciler.Ready(), Log: log, Metrics: a.metrics,
	})
	ok(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return reconciler.Run(ctx) })
	group.Go(func() error { return reaper.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		ok(t, group.Wait())
	})
	for _, ready := range []<-chan struct{}{reconciler.Ready(), reaper.Ready()} {
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatal("the agent does not get ready")
		}
	}
	ok(t, a.datapath.Attach())
	return a
}

// sum is the sum of a metric's values.
func (a *agent) sum(t *testing.T, metric string) (sum float64) {
	t.Helper()
	families, err := a.metrics.Gather()
	ok(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == metric {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A control changes endpoints as a control plane does, and notes when.
type control struct {
	store *cluster.Store
	has   []set
	of    map[uint32]history

	mu     sync.Mutex // guards the rest, which is about Service 0
	index  map[*cluster.EndpointSlice]int
	served lateness // by change: until it was in the kernel
	due    []int64  // changes that are not, by when they were delivered
}

func newControl(services int) *control {
	c := &control{store: cluster.NewStore(), has: make([]set, services), of: map[uint32]history{}, index: map[*cluster.EndpointSlice]int{}}
	c.store.Update(func(e *cluster.Edit) {
		e.PutNamespace("default")
		for i := range services {
			c.has[i] = 0xff
			e.PutService(serviceObject(uint32(i)))
			e.PutSlice(sliceObject(uint32(i), c.has[i]))
			c.of[uint32(i)] = history{{set: c.has[i]}}
		}
		e.MarkSynced()
	})
	return c
}

// toggle adds an endpoint to a Service or takes one away; there are always some.
func (c *control) toggle(service uint32) {
	next := c.has[service]
	for next == c.has[service] || next.size() < endpointsEach/4 || next.size() > endpointsEach*3/4 {
		next = c.has[service] ^ 1<<rand.IntN(endpointsEach)
	}
	c.has[service] = next
	slice := sliceObject(service, next)
	at := now()
	c.of[service] = append(c.of[service], change{at, next})
	if service == 0 {
		c.mu.Lock()
		c.due = append(c.due, at)
		c.index[slice] = len(c.served) + len(c.due)
		c.mu.Unlock()
	}
	c.store.Update(func(e *cluster.Edit) { e.PutSlice(slice) })
}

// note is called when a Change is in the kernel.
func (c *control) note(change cluster.Change) {
	at := now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, slice := range change.Snapshot.Slices(name(0)) {
		for len(c.served) < c.index[slice] {
			c.served = append(c.served, time.Duration(at-c.due[0]))
			c.due = c.due[1:]
		}
	}
}

// churn changes endpoints for a time, of Service 0 and of the others at their rates.
func (c *control) churn(t *testing.T, d time.Duration) (target, others int) {
	t.Helper()
	const rate = targetChanges + otherChanges
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	end := time.After(d)
	for i := 0; ; i++ {
		select {
		case <-end:
			return target, others
		case <-t.Context().Done():
			return target, others
		case <-tick.C:
		}
		if i%(rate/targetChanges) == 0 {
			c.toggle(0)
			target++
		} else {
			c.toggle(1 + rand.Uint32N(uint32(len(c.has)-1)))
			others++
		}
	}
}

// TestChurn changes endpoints under load: no connection fails, none goes to another Service, changes are in the kernel within
// 10 ms and no connection goes to an endpoint much later, and which one a connection gets is chance alone (C6, K25).
// Connections that are open stay so (G3), and connected UDP sockets recover from backends that are gone (G2, K1).
func TestChurn(t *testing.T) {
	lab := newLab(t, "churn")
	netns, err := lab.NetNS("node")
	ok(t, err)
	n, err := lab.StartNode(netlab.NodeSpec{Name: "node", NetNS: netns})
	ok(t, err)
	addBackends(t, lab, n)
	control := newControl(ports)
	// What is measured is the agent's delay, and not for how long whatever else runs on the machine keeps it from running.
	ok(t, setNice(-20))
	t.Cleanup(func() { ok(t, setNice(0)) })
	a := startAgent(t, n, control.store, control.note)
	load := startLoad(t, lab, n, plan{rate: connections, services: ports, long: 50, datagram: 20})
	target, others := control.churn(t, churnTime)
	picks, took := load.stop(t)
	v := judge(t, picks, control.of, grace{connections: late, datagrams: late, settled: soon})
	x, freedom := chiSquare(v.counted[:], v.expected[:])
	t.Logf("%d changes of the target and %d of %d other ports in %.0f s", target, others, ports-1, took.Seconds())
	t.Logf("%d connections, %.0f a second of %d; %d exchanges on 50 open connections", v.connections, float64(v.connections)/took.Seconds(), connections, v.exchanges)
	t.Logf("from a change of the target to the kernel: %s", control.served)
	t.Logf("picks of a removed endpoint: %s", v.late)
	t.Logf("%d datagrams answered; %d UDP sockets ended (the agent says %.0f); answers of a removed endpoint: %s",
		v.datagrams, v.reaped, a.sum(t, "nearpath_service_sockets_reaped_total"), v.lateUDP)
	t.Logf("chi-square of %.0f picks: %.1f with %d degrees of freedom", total(v.counted[:]), x, freedom)
	if p50, p99 := control.served.percentile(50), control.served.percentile(99); p50 > soon || p99 > late || len(control.served) < target*9/10 {
		t.Errorf("half of %d changes were in the kernel after %s, want %s, 99 of 100 after %s, want %s", len(control.served), p50, soon, p99, late)
	}
	if !likely(x, freedom) {
		t.Errorf("picks are not uniform: counted %.0f, expected %.0f", v.counted, v.expected)
	}
	if v.connections == 0 || v.exchanges == 0 || v.datagrams == 0 || v.reaped == 0 || total(v.counted[:]) < 1000 {
		t.Errorf("this proves nothing: %+v", v)
	}
	for _, metric := range []string{"nearpath_service_refused_ports", "nearpath_service_sockets_stranded_backends"} {
		if got := a.sum(t, metric); got != 0 {
			t.Errorf("%s is %v", metric, got)
		}
	}
}

// TestUniform: which endpoint a connection gets is chance alone, each time anew (C6).
func TestUniform(t *testing.T) {
	const choices, endpoints = 100_000, 10
	lab := newLab(t, "uniform")
	netns, err := lab.NetNS("node")
	ok(t, err)
	n, err := lab.StartNode(netlab.NodeSpec{Name: "node", NetNS: netns})
	ok(t, err)
	addBackends(t, lab, n)
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		e.PutNamespace("default")
		e.PutService(serviceObject(0))
		e.PutSlice(sliceObject(0, 1<<endpoints-1))
		e.MarkSynced()
	})
	startAgent(t, n, store, nil)
	text, err := command(t, n, roleChoose, strconv.Itoa(choices)).Output()
	ok(t, err)
	var counted, expected [endpointsEach]float64
	ok(t, json.Unmarshal(text, &counted))
	for i := range endpoints {
		expected[i] = choices / endpoints
	}
	x, freedom := chiSquare(counted[:], expected[:])
	t.Logf("%.0f choices of %d endpoints: %.0f; chi-square %.1f with %d degrees of freedom", total(counted[:]), endpoints, counted[:endpoints], x, freedom)
	if total(counted[:]) != choices || freedom != endpoints-1 || !likely(x, freedom) {
		t.Errorf("choices are not uniform: %.0f", counted)
	}
}

func total(of []float64) (sum float64) {
	for _, x := range of {
		sum += x
	}
	return sum
}
