package main

import (
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
)

// newPublisher makes what keeps the cluster's names in the kernel.
func (a *agent) newPublisher(service cluster.Name) (*nodelocaldns.Publisher, error) {
	var err error
	if a.answers, err = answersFor(a.cfg.DNS.Kernel, a.datapath.Answers); err != nil {
		return nil, err
	}
	if err := a.metrics.Register(newKernelDNS(a.datapath.Answers.Counts)); err != nil {
		return nil, err
	}
	return nodelocaldns.NewPublisher(nodelocaldns.PublisherConfig{
		Zone:    nodelocaldns.Zone{Domain: a.cfg.ClusterDomain, TTL: clusterTTL, DNSService: service},
		Answers: a.answers, Log: a.log, Metrics: a.metrics,
		Changed: a.namesChanged,
	})
}

// publish makes a Change what DNS answers from, userspace first: the kernel asks it for what it does not hold.
func (a *agent) publish(c cluster.Change) {
	a.served.Store(c.Snapshot)
	a.publisher.Publish(c)
	a.setServers(c.Snapshot)
}

// setServers tells the kernel where pods ask. It answers nothing at other addresses, and nothing at all without dns.kernel.
func (a *agent) setServers(s *cluster.Snapshot) {
	var servers []netip.Addr
	if a.cfg.DNS.Kernel {
		servers = a.cfg.DNS.addresses()
		if svc := s.Service(a.dnsService); svc != nil {
			servers = append(servers, svc.ClusterIPs...)
		}
	}
	slices.SortFunc(servers, netip.Addr.Compare)
	if a.servers != nil && slices.Equal(servers, *a.servers) {
		return
	}
	if err := a.datapath.Answers.SetServers(servers); err != nil {
		a.log.Error("the kernel does not answer where pods ask", "servers", servers, "err", err)
		return
	}
	a.servers = &servers
}
