package main

import (
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
	autopathplugin "github.com/nearpath/nearpath/plugins/autopath"
)

// newPublisher makes what keeps the cluster's names in the kernel.
func (a *agent) newPublisher(service cluster.Name) (*nodelocaldns.Publisher, error) {
	return nodelocaldns.NewPublisher(nodelocaldns.PublisherConfig{
		Zone:    nodelocaldns.Zone{Domain: a.cfg.ClusterDomain, TTL: clusterTTL, DNSService: service},
		Answers: a.datapath.Answers, Log: a.log, Metrics: a.metrics,
		Changed: func([]string) { autopathplugin.Forget() },
	})
}

// publish makes a Change what DNS answers from, userspace first: the kernel asks it for what it does not hold.
func (a *agent) publish(c cluster.Change) {
	a.served.Store(c.Snapshot)
	a.publisher.Publish(c)
}
