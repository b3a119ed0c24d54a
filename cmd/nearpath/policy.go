package main

import (
	"context"
	"net/netip"
	"path/filepath"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// policyKinds are what policies are and depend on.
var policyKinds = []cluster.Kind{
	cluster.Namespaces, cluster.Services, cluster.PolicyPods, cluster.PolicyNodes, cluster.NetworkPolicies, cluster.ClusterNetworkPolicies,
	cluster.CalicoPolicies, cluster.CalicoTiers, cluster.CalicoNetworkSets,
}

// buildPolicy makes what enforces network policies.
func (a *agent) buildPolicy(context.Context) error {
	if !a.cfg.Policy.Enabled {
		return nil
	}
	changes := a.store.Subscribe(policyKinds...)
	a.closers = append(a.closers, func() error { changes.Close(); return nil })
	kernel := a.datapath.Policy
	a.names = newPolicyNames(policyNamesConfig{
		Domains: []string{a.cfg.ClusterDomain}, Path: filepath.Join(a.cfg.StateDir, "policy-names.json"), Log: a.log,
		Refresh: func(ctx context.Context) error { return a.policy.refresh(ctx) },
		InUse:   func() (map[netip.Addr]bool, error) { return peersInUse(a.datapath.Tracked) },
	})
	planner := policy.NewPlanner(policy.Config{
		Secret: kernel.Secret(), Room: kernel.Room(), Listeners: a.cfg.DNS.addresses(), DNSService: a.dnsService, Domain: a.names.names.Addrs,
	})
	a.policy = newPolicySync(policySyncConfig{
		Planner: planner, Maps: kernel, Changes: changes, Attached: a.localPods, Names: a.names, Unread: func() error { return a.unread() },
		Kernel: kernel, Warn: a.warnNode, Log: a.log, Metrics: newPolicyMetrics(a.metrics),
	})
	events, err := kernel.Events()
	if err != nil {
		return err
	}
	a.closers = append(a.closers, events.Close)
	a.drops = newDropLog(func(ctx context.Context) (dropView, error) {
		e, err := events.Read(ctx)
		return a.policy.dropOf(e), err
	}, func() bool { return a.live.Load().Policy.LogDrops }, a.log, a.metrics)
	a.metrics.MustRegister(&policyCollector{pods: a.policy.local, kernel: kernel})
	a.tracked = newTrackedSweeper(sweepTracked(a.datapath), a.policy.refusedFlows, a.warnNode, a.log, a.metrics)
	a.tasks = append(a.tasks, a.policy, a.names, a.drops, a.tracked)
	a.forADD = append(a.forADD, a.policy)
	return nil
}

// localPods are the pods that are attached and that the kernel knows.
func (a *agent) localPods() ([]localPod, error) {
	attached, err := a.cni.Attached()
	if err != nil { // of single records, which the collector of pods tells of
		a.log.Warn("not all pods are known to policy", "err", err)
	}
	var pods []localPod
	for _, one := range attached {
		if len(one.Addrs) == 0 {
			continue
		}
		have, ok, err := a.datapath.Pods.Lookup(one.Addrs[0])
		if err != nil {
			return nil, err
		}
		if ok && have.Number != 0 {
			pods = append(pods, localPod{Ref: one.Pod, Addrs: one.Addrs, Number: have.Number})
		}
	}
	return pods, nil
}

// gated has a pod's ADD wait for what counts for the pod, and its policies be enforced before it may send.
func (a *agent) gated(wish wishFunc) (wishFunc, podGate) {
	if a.policy == nil {
		return wish, openGate{}
	}
	return a.policy.wish(wish), a.policy
}
