package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/internal/service/model/worlds"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// A planned is what the planner makes of a world that changes: conversion, selection, plan and maps, as in the agent, and
// the tables that programs would decide by.
type planned struct {
	t      failer
	maps   *fakeMaps
	store  *cluster.Store
	sub    *cluster.Subscription
	r      *Reconciler
	tables *bpf.Tables
}

type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// newPlanned starts without objects.
func newPlanned(t failer, w *model.World) *planned {
	p := &planned{t: t, maps: newFakeMaps(), store: cluster.NewStore(), tables: &bpf.Tables{}}
	p.sub = p.store.Subscribe(cluster.Services, cluster.Namespaces, cluster.Nodes, cluster.ServiceCIDRs)
	var err error
	p.r, err = New(Config{
		Maps: p.maps, Changes: p.sub, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Node:  Node{Name: w.Node.Name, ProxyName: w.ProxyName, NoExternalIPs: w.NoExternalIPs},
		CIDRs: w.ServiceCIDRs, Networks: p.setNetworks,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// setNetworks is what the host network makes of it.
func (p *planned) setNetworks(services, spared []netip.Prefix) {
	p.tables.Networks = nil
	for _, n := range services {
		p.tables.Networks = append(p.tables.Networks, bpf.HostNetwork{Prefix: n, Way: bpf.WayService})
	}
	for _, n := range spared {
		p.tables.Networks = append(p.tables.Networks, bpf.HostNetwork{Prefix: n, Way: bpf.WayNode})
	}
}

// become changes the objects to those of the world, in one change, and has it served.
func (p *planned) become(w *model.World) {
	p.t.Helper()
	before := p.store.Snapshot()
	p.store.Replace(p.objects(w))
	if p.store.Snapshot() != before { // a change of what nobody reads is none
		p.sync()
	}
	p.read(w)
}

// objects are the world's, converted as the sources do.
func (p *planned) objects(w *model.World) cluster.Objects {
	p.t.Helper()
	var objects cluster.Objects
	for _, in := range w.Services {
		svc, err := cluster.ServiceFrom(in)
		if err != nil {
			p.t.Fatal(err)
		}
		objects.Services = append(objects.Services, svc)
	}
	for _, in := range w.Slices {
		slice, err := cluster.SliceFrom(in)
		if err != nil {
			p.t.Fatal(err)
		}
		if slice != nil {
			objects.Slices = append(objects.Slices, slice)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.Node.Name, Labels: w.Node.Labels}}
	for _, v6 := range []bool{false, true} {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: w.Node.Primary(v6).String()})
	}
	converted, err := cluster.NodeFrom(node)
	if err != nil {
		p.t.Fatal(err)
	}
	objects.Nodes = []*cluster.Node{converted}
	return objects
}

// sync serves the changes that wait.
func (p *planned) sync() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	change, err := p.sub.Next(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	if o := p.r.sync(change); o.err != nil || len(o.full) > 0 {
		p.t.Fatalf("sync: %v, %v", o.err, o.full)
	}
}

// read makes the tables those of the maps.
func (p *planned) read(w *model.World) {
	entries, err := p.maps.Entries()
	if err != nil {
		p.t.Fatal(err)
	}
	t := p.tables
	t.Frontends, t.Blocks, t.NodeAddresses = map[bpf.Frontend]bpf.Target{}, map[uint32]bpf.Block{}, nil
	for _, e := range entries {
		t.Frontends[e.Frontend] = bpf.Target{Kind: e.Kind, Record: e.Record}
	}
	for _, record := range p.maps.Records() {
		t.Blocks[record], _ = p.maps.Block(record)
	}
	ports := hostnet.NodePorts{Primary: slices.Equal(w.Node.NodePortAddresses, []string{"primary"})}
	for _, text := range w.Node.NodePortAddresses {
		if !ports.Primary {
			ports.Networks = append(ports.Networks, netip.MustParsePrefix(text))
		}
	}
	for _, a := range append(slices.Clone(w.Node.Addresses), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()) {
		t.NodeAddresses = append(t.NodeAddresses, bpf.NodeAddress{Addr: a, NodePorts: ports.On(a, w.Node.Primary(a.Is6()))})
	}
}

// question is who a probe's client is to the programs: the node's sockets have its primary address.
func (p *planned) question(probe model.Probe) bpf.Question {
	protocols := map[corev1.Protocol]cluster.Protocol{corev1.ProtocolTCP: cluster.TCP, corev1.ProtocolUDP: cluster.UDP, corev1.ProtocolSCTP: cluster.SCTP}
	return bpf.Question{
		Client: probe.Client.Addr, To: probe.To, Protocol: uint8(protocols[probe.Protocol]),
		Inside: probe.Client.Kind != model.Outside, Host: probe.Client.Kind == model.NodeItself,
	}
}

// decide is what programs make of a probe, in the model's words.
func (p *planned) decide(probe model.Probe) model.Verdict {
	q := p.question(probe)
	v := p.tables.Decide(q)
	outcomes := map[bpf.Decision]model.Outcome{bpf.Pass: model.Pass, bpf.Forward: model.Forward, bpf.Reject: model.Reject, bpf.Drop: model.Drop}
	out := model.Verdict{Outcome: outcomes[v.Decision]}
	for _, addr := range v.Backends {
		b := model.Backend{Addr: addr}
		if p.tables.Sees(q, v, addr.Addr()) || probe.Packets && probe.Client.Kind == model.LocalPod && addr.Addr() == probe.Client.Addr {
			b.Source = model.AsNode
		}
		out.Backends = append(out.Backends, b)
	}
	return out
}

// rounds is how many worlds a property is tried with.
func checkWorlds(t *testing.T, rounds int, property func(*rapid.T)) {
	t.Helper()
	for range max(1, rounds/100) { // rapid makes 100 at a time
		rapid.Check(t, property)
		if t.Failed() {
			return
		}
	}
}

// TestPlannerFollowsTheRows: what the maps say of every probe is what the rows say.
func TestPlannerFollowsTheRows(t *testing.T) {
	t.Parallel()
	lab := worlds.Paper()
	n := 0
	checkWorlds(t, 800, func(t *rapid.T) {
		w := worlds.Draw(t, lab)
		p := newPlanned(t, w)
		p.become(w)
		n++
		compareAll(t, &lab, w, p)
	})
	t.Logf("%d worlds", n)
}

func compareAll(t *rapid.T, lab *worlds.Lab, w *model.World, p *planned) {
	t.Helper()
	for _, probe := range worlds.Probes(lab, w) {
		if want, got := model.Decide(w, probe), p.decide(probe); !got.Same(want) {
			t.Fatalf("%s: %s, want %s\n%s", probe, got, want, show(w))
		}
	}
}

// show is a world for whoever looks at a failure.
func show(w *model.World) string {
	var s strings.Builder
	fmt.Fprintf(&s, "node %+v\n", w.Node)
	for _, svc := range w.Services {
		fmt.Fprintf(&s, "service %s/%s created %s labels %v\n  spec %+v\n  status %+v\n", svc.Namespace, svc.Name, svc.CreationTimestamp, svc.Labels, svc.Spec, svc.Status)
	}
	for _, slice := range w.Slices {
		fmt.Fprintf(&s, "slice %s/%s\n", slice.Namespace, slice.Name)
		for _, port := range slice.Ports {
			fmt.Fprintf(&s, "  port %s\n", port.String())
		}
		for _, e := range slice.Endpoints {
			fmt.Fprintf(&s, "  endpoint %s\n", e.String())
		}
	}
	return s.String()
}
