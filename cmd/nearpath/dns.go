package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	prometheusmodel "github.com/prometheus/client_model/go"

	"github.com/nearpath/nearpath/nodelocaldns"
	"github.com/nearpath/nearpath/plugins/answers"
	_ "github.com/nearpath/nearpath/plugins/metrics"
	"github.com/nearpath/nearpath/plugins/nearpath"
	"github.com/nearpath/nearpath/plugins/upstream"
)

// resolvConf is where the node's own resolvers are named.
const resolvConf = "/etc/resolv.conf"

func (a *agent) buildDNS(context.Context) error {
	a.external = nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{
		Answers: a.answers, Domains: []string{a.cfg.ClusterDomain}, Searched: a.scopes.Searched, Log: a.log,
	})
	a.tasks = append(a.tasks, a.external)
	nearpath.Provide(a.served.Load)
	upstream.Provide(a.served.Load)
	upstream.Notify(a.upstreamLoops)
	node := answers.Node{External: a.external, ScopeID: a.scopes.ScopeID, ScopeOf: a.scopes.ScopeOf}
	if a.names != nil {
		a.names.Kernel, node.BeforeReply = a.external, a.names.beforeReply
	}
	answers.Provide(node)
	var required []netip.AddrPort
	for _, addr := range a.cfg.DNS.addresses() {
		required = append(required, netip.AddrPortFrom(addr, 53))
	}
	server := nodelocaldns.NewServer(nodelocaldns.ServerConfig{
		Corefile: func() ([]byte, error) { return a.corefile(a.live.Load().DNS) }, Required: required, Refused: a.corefileRefused, Log: a.log,
	})
	// The listener's address is the host network's work. And the moment it listens it is asked: before the first
	// Snapshot the cluster's DNS has the better answers.
	a.tasks = append(a.tasks, &delayed{
		task:  &steeredDNS{server: server, hold: a.datapath.HoldDNS, ready: make(chan struct{})},
		first: []<-chan struct{}{a.host.Ready(), a.synced},
	})
	return nil
}

// upstreamLoops makes an event of a resolver that asks this one. It must not block.
func (a *agent) upstreamLoops(e upstream.Event) {
	if !e.Looped {
		return // the log has it
	}
	go a.warnNode("NodeDNSUpstreamLoops", fmt.Sprintf("upstream %s for %s leads back to the node's DNS, and is not asked", e.Target, e.Zone))
}

// corefileRefused makes an event of what a user can put right. Until there is a good Corefile the cluster's DNS serves.
func (a *agent) corefileRefused(err error) {
	if err == nil {
		a.log.Info("the node's DNS is as configured")
		return
	}
	a.log.Error("the node's DNS is not as configured", "err", err)
	a.warnNode("NodeDNSNotAsConfigured", err.Error())
}

// corefile is the Corefile of a configuration. Where the node listens does not change while the agent runs.
func (a *agent) corefile(c dnsConfig) ([]byte, error) {
	if c.Corefile != "" {
		text, err := os.ReadFile(c.Corefile)
		if err != nil {
			return nil, fmt.Errorf("dns.corefile: %w", err)
		}
		return text, nil
	}
	conf := nodelocaldns.Config{
		Domain: a.cfg.ClusterDomain, TTL: clusterTTL, Upstreams: c.Upstreams, Stubs: c.stubs(), CacheSize: c.CacheSize,
		Autopath: c.Autopath, Directives: c.Directives,
	}
	if len(conf.Upstreams) == 0 {
		conf.Upstreams = a.nodeResolvers(resolvConf)
	}
	for _, addr := range a.cfg.DNS.addresses() {
		conf.Listen = append(conf.Listen, netip.AddrPortFrom(addr, 53))
	}
	return conf.Corefile()
}

// nodeResolvers are the resolvers of the node but for this one. A node without any still has the cluster's names.
func (a *agent) nodeResolvers(path string) (upstreams []string) {
	conf, err := dns.ClientConfigFromFile(path)
	if err == nil {
		for _, server := range conf.Servers {
			addr, err := netip.ParseAddr(server)
			if err == nil && !slices.Contains(a.cfg.DNS.addresses(), addr) {
				upstreams = append(upstreams, server)
			}
		}
	}
	if len(upstreams) == 0 {
		a.noResolver.Do(func() {
			a.log.Warn("the node has no resolver that is known: names outside the cluster will not resolve", "file", path, "err", err)
		})
	}
	return upstreams
}

// corednsMetrics are those that CoreDNS and its plugins register with the process.
func corednsMetrics() ([]*prometheusmodel.MetricFamily, error) {
	all, err := prometheus.DefaultGatherer.Gather()
	return slices.DeleteFunc(all, func(f *prometheusmodel.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "coredns_") }), err
}

// clusterTTL is the TTL of the cluster's names, in seconds, as CoreDNS has it.
const clusterTTL = 5

// drain is how long the listener goes on after steering has ended: what was steered before is in its queue or being
// answered, and an answer takes a millisecond.
const drain = 200 * time.Millisecond

// steeredDNS is the task of the node's DNS: queries are sent to the listener only while it serves.
type steeredDNS struct {
	server task
	hold   func(ctx context.Context, held func()) error
	ready  chan struct{}
}

func (s *steeredDNS) String() string         { return s.server.String() }
func (s *steeredDNS) Ready() <-chan struct{} { return s.ready }

func (s *steeredDNS) Run(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.server.Run(serving) }()
	select {
	case <-s.server.Ready():
	case err := <-ended:
		return err
	case <-ctx.Done():
		stop()
		return <-ended
	}
	steering, cancel := context.WithCancel(ctx)
	defer cancel()
	held := make(chan error, 1)
	go func() { held <- s.hold(steering, func() { close(s.ready) }) }()
	select {
	case err := <-ended:
		cancel()
		return errors.Join(err, <-held)
	case err := <-held:
		time.Sleep(drain)
		stop()
		return errors.Join(err, <-ended)
	}
}

// delayed is a task that starts when other things are ready.
type delayed struct {
	task
	first []<-chan struct{}
}

func (d *delayed) Run(ctx context.Context) error {
	for _, ready := range d.first {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
	}
	return d.task.Run(ctx)
}
