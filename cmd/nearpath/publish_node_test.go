//go:build node

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/nodelocaldns"
)

const (
	publishPod    = "10.8.0.5"
	publishServer = "10.96.0.10"
	// publishPatience is for what takes a millisecond on an idle machine.
	publishPatience = time.Minute
)

// A published node serves Services and their names from real maps, to which nothing is attached.
type published struct {
	*agent
	store *cluster.Store
	pins  string
	// before is called before a frontend comes or goes.
	before func(f bpf.Frontend, comes bool)
}

// witnessedMaps are real maps with a witness.
type witnessedMaps struct {
	*bpf.Services
	by *published
}

func (m witnessedMaps) PutFrontend(f bpf.Frontend, kind bpf.FrontendKind, record uint32) error {
	m.by.before(f, true)
	return m.Services.PutFrontend(f, kind, record)
}

func (m witnessedMaps) DeleteFrontend(f bpf.Frontend) error {
	m.by.before(f, false)
	return m.Services.DeleteFrontend(f)
}

func startPublished(t *testing.T) *published {
	t.Helper()
	mount := t.TempDir()
	must(t, unix.Mount("bpf", mount, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mount, 0)) })
	pins := filepath.Join(mount, "nearpath")
	d, err := bpf.Load(bpf.Config{PinDir: pins, CgroupRoot: "/sys/fs/cgroup"})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	must(t, errors.Join(d.Answers.Beat(), d.Pods.Put(bpf.Pod{Addrs: []netip.Addr{netip.MustParseAddr(publishPod)}, Link: 1, Slot: 1})))

	p := &published{store: cluster.NewStore(), pins: pins, before: func(bpf.Frontend, bool) {}}
	p.agent = newAgentOf(config{ClusterDomain: "cluster.local", DNS: dnsConfig{Address: netip.MustParseAddr(publishServer), Kernel: true, Autopath: true, Service: "kube-system/kube-dns"}},
		new(slog.LevelVar), slog.New(slog.DiscardHandler))
	p.datapath = d
	p.external = nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{Answers: p.datapath.Answers, Domains: []string{"cluster.local"}, Log: p.log})
	p.scopes = newDNSScopes(dnsScopesConfig{
		Domain: "cluster.local", Host: func() []string { return nil }, Pod: func(cni.PodRef) *cluster.Pod { return nil },
		Kernel: func([]netip.Addr, uint32) error { return nil }, Ended: func(uint32) {}, Log: p.log,
	})
	p.publisher, err = p.newPublisher(cluster.Name{Namespace: "kube-system", Name: "kube-dns"})
	must(t, err)
	sub := p.store.Subscribe(cluster.Services, cluster.Namespaces, cluster.Nodes, cluster.ServiceCIDRs)
	p.services, err = service.New(service.Config{
		Maps: witnessedMaps{d.Services, p}, Changes: sub, Node: service.Node{Name: "node"}, Log: p.log, Metrics: prometheus.NewRegistry(), Served: p.publish,
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.services.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
		sub.Close()
	})
	p.store.Update(func(e *cluster.Edit) { e.PutNamespace("shop"); e.MarkSynced() })
	<-p.services.Ready()
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// says is the kernel's answer to the pod's question for an address: the status and the addresses, "" when it asks.
func (p *published) says(name string) string {
	query, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err == nil {
		err = p.datapath.Answers.Beat() // or it denies nothing when the machine is slow
	}
	if err != nil {
		return err.Error()
	}
	reply, err := p.datapath.Ask(netip.MustParseAddr(publishPod), netip.MustParseAddr(publishServer), query)
	if err != nil {
		return err.Error()
	}
	if reply == nil {
		return ""
	}
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		return err.Error()
	}
	words := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		words = append(words, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(words, " ")
}

func (p *published) await(t *testing.T, name, want string) {
	t.Helper()
	for deadline := time.Now().Add(publishPatience); p.says(name) != want; {
		if time.Now().After(deadline) {
			t.Fatalf("the kernel says %q of %s, want %q", p.says(name), name, want)
		}
	}
}

func publishedName(i int) string { return fmt.Sprintf("cart-%d.shop.svc.cluster.local.", i) }

func publishedService(i int) *cluster.Service {
	return &cluster.Service{
		Name:       cluster.Name{Namespace: "shop", Name: fmt.Sprintf("cart-%d", i)},
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})},
		Ports:      []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}},
	}
}

// TestNamesFollowTheirServices: a Service that comes forwards before the kernel answers with it, which is within milliseconds;
// one that goes is denied before its address stops to forward.
func TestNamesFollowTheirServices(t *testing.T) {
	const count = 50
	p := startPublished(t)
	seen := make(chan string, 4*count) // what was said when frontends moved
	p.before = func(f bpf.Frontend, _ bool) {
		if a := f.Addr.Addr().As4(); a[2] == 1 && f.Addr.Port() == 80 {
			seen <- p.says(publishedName(int(a[3])))
		}
	}
	var took []time.Duration
	for i := range count {
		created := time.Now()
		p.store.Update(func(e *cluster.Edit) { e.PutService(publishedService(i)) })
		p.await(t, publishedName(i), fmt.Sprintf("NOERROR 10.96.1.%d", i))
		took = append(took, time.Since(created))
	}
	slices.Sort(took)
	t.Logf("from the event to the kernel's answer: p50 %s, p90 %s, max %s", took[count/2], took[count*9/10], took[count-1])
	for i := range count {
		p.store.Update(func(e *cluster.Edit) { e.DeleteService(publishedService(i).Name) })
		p.await(t, publishedName(i), "NXDOMAIN")
	}
	for range 2 * count {
		select {
		case said := <-seen:
			if said != "NXDOMAIN" {
				t.Errorf("when a frontend comes or goes the kernel says %q of its Service", said)
			}
		case <-time.After(publishPatience):
			t.Fatal("frontends did not come and go")
		}
	}
}
