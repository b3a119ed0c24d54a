package main

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
)

// newServices makes what keeps Services served.
func (a *agent) newServices() (*service.Reconciler, error) {
	dns, err := parseName(a.cfg.DNS.Service)
	if err != nil {
		return nil, err
	}
	subscription := a.store.Subscribe(cluster.Services, cluster.Namespaces, cluster.Nodes, cluster.ServiceCIDRs)
	a.closers = append(a.closers, func() error { subscription.Close(); return nil })
	c := a.cfg.Services
	node := service.Node{Name: a.cfg.NodeName, DNS: dns, DNSListener: a.cfg.DNS.addresses(), ProxyName: c.ProxyName, NoExternalIPs: !c.ExternalIPs}
	if a.kubeProxy, err = a.newKubeProxyFace(node); err != nil {
		return nil, err
	}
	a.dnsService = dns
	if a.publisher, err = a.newPublisher(dns); err != nil {
		return nil, err
	}
	return service.New(service.Config{
		Maps: a.datapath.Services, Changes: subscription, Log: a.log, Metrics: a.metrics,
		Node:      node,
		CIDRs:     sortedPrefixes(c.CIDRs),
		Served:    a.publish,
		Withdrawn: func() { a.reaper.Withdrawn() },
		Synced:    a.kubeProxy.synced,
		Networks:  a.setServiceNetworks,
		Warn:      func(about cluster.Object, reason, message string) { a.events.WarnOnce(about, reason, message) },
	})
}

// setServiceNetworks tells the node's networks where Services have their addresses. It does not wait: the Reconciler serves
// nothing new meanwhile.
func (a *agent) setServiceNetworks(services, spared []netip.Prefix) {
	a.host.SetServiceNetworks(services, spared)
	a.egress.wake()
}

// serviceCIDRs are what Services get their cluster IPs from, as far as that is known.
func (a *agent) serviceCIDRs() []netip.Prefix {
	if len(a.cfg.Services.CIDRs) > 0 {
		return a.cfg.Services.CIDRs
	}
	return a.store.Snapshot().ServiceCIDRs()
}

func sortedPrefixes(list []netip.Prefix) []netip.Prefix {
	return slices.SortedFunc(slices.Values(list), netip.Prefix.Compare)
}

// nodeName is a name as the kubelet registers it: endpoints are local that have it.
func nodeName(name string) string { return strings.ToLower(strings.TrimSpace(name)) }
