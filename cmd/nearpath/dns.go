package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
	"github.com/nearpath/nearpath/nodelocaldns"
	"github.com/nearpath/nearpath/plugins/nearpath"
)

// resolvConf is where the node's own resolvers are named.
const resolvConf = "/etc/resolv.conf"

func (a *agent) buildDNS(context.Context) error {
	corefile, err := a.corefile()
	if err != nil {
		return err
	}
	nearpath.Provide(a.served.Load)
	// The listener's address is the host network's work. And the moment it listens it is asked: before the first
	// Snapshot the cluster's DNS has the better answers.
	a.tasks = append(a.tasks, &delayed{
		task:  &steeredDNS{server: nodelocaldns.NewServer(corefile, a.log), hold: a.datapath.HoldDNS, ready: make(chan struct{})},
		first: []<-chan struct{}{a.host.Ready(), a.synced},
	})
	return nil
}

func (a *agent) corefile() ([]byte, error) {
	if a.cfg.DNS.Corefile != "" {
		text, err := os.ReadFile(a.cfg.DNS.Corefile)
		if err != nil {
			return nil, fmt.Errorf("dns.corefile: %w", err)
		}
		return text, nil
	}
	upstreams := a.cfg.DNS.Upstreams
	if len(upstreams) == 0 {
		upstreams = a.nodeResolvers(resolvConf)
	}
	return nodelocaldns.Config{
		Domain: a.cfg.ClusterDomain, TTL: clusterTTL, Upstreams: upstreams,
		Listen: []netip.AddrPort{netip.AddrPortFrom(a.cfg.DNS.Address, 53)},
	}.Corefile()
}

// nodeResolvers are the resolvers of the node but for this one. A node without any still has the cluster's names.
func (a *agent) nodeResolvers(path string) (upstreams []string) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		a.log.Warn("the node's resolvers are unknown: names outside the cluster will not resolve", "err", err)
		return nil
	}
	for _, server := range conf.Servers {
		if server != a.cfg.DNS.Address.String() {
			upstreams = append(upstreams, server)
		}
	}
	if len(upstreams) == 0 {
		a.log.Warn("the node has no resolver: names outside the cluster will not resolve", "file", path)
	}
	return upstreams
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
