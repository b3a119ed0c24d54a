package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/hostnet"
)

func (a *agent) buildCNI(context.Context) (err error) {
	shaper, err := cni.NewShaper("")
	if err != nil {
		return err
	}
	a.closers = append(a.closers, shaper.Close)
	links := newPodLinks(a.datapath, a.warnNode, a.log)
	a.tasks = append(a.tasks, links, newForeignWatch(a.datapath, links, a.warnNode, a.log, a.metrics))
	wishes := &wisher{
		config: func() networkConfig { return a.live.Load().Network },
		pods:   podFinder{store: a.store, manifests: a.cfg.Manifests != ""},
		ipvlan: hostnet.SupportsIPVlan, warn: a.events.Warn,
	}
	wish, gate := a.gated(wishes.Wish)
	a.cni, err = cni.NewServer(cni.Config{
		Addresses: poolAddresses{a.pool, a.keepFor, func() int { return a.live.Load().Pool.Exclusive.Max }, &places{}},
		Pods: &kernelPods{
			linked: links, scopes: a.scopes, policy: gate, programs: a.datapath, pods: a.datapath.Pods, ports: a.services, parent: hostnet.ParentOf,
			warn: func(addrs []netip.Addr, reason, message string) {
				a.events.Warn(podWith(a.pool.Leases(), addrs), reason, message)
			},
		},
		Wish: wish, ENIs: a.host, Shaper: shaper, Records: cni.RecordsDir(a.cfg.Socket),
		HostNetworks: func() []netip.Prefix { return a.cfg.Network.HostNetworks }, Report: a.warnNode,
		Status: a.cniStatus, MTU: a.host.MTU, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, a.cni.Close)
	collect := []<-chan struct{}{a.pool.Ready()}
	if a.policy != nil {
		// Pods of which the kernel knows nothing get programs only when it knows their policies.
		collect = append(collect, a.policy.settled.done)
	}
	// A deletion from before must not come after a new ADD of the same container: the API waits for this.
	pending := cni.NewPending(a.cni, agentapi.PendingDir(a.cfg.Socket), 0)
	a.pending = pending.Ready()
	a.tasks = append(a.tasks, pending,
		// What is gone from the node must not be taken for gone before the pool knows what it has.
		&delayed{task: cni.NewCollector(a.cni, 0), first: collect})
	a.buildLimits()
	return nil
}

// addPatience bounds how long an ADD waits for an agent that has just started.
const addPatience = 20 * time.Second

// serveCNI serves one CNI invocation. An ADD returns only when the pod is fully served, so it waits until it can be.
func (a *agent) serveCNI(ctx context.Context, r agentapi.CNIRequest) agentapi.CNIResponse {
	if r.Command == "ADD" {
		if err := a.awaitADD(ctx); err != nil {
			return agentapi.CNIResponse{Error: &agentapi.CNIError{Code: tryAgainLater, Msg: "agent is starting", Details: err.Error()}}
		}
	}
	return a.cni.Handle(ctx, r)
}

// tryAgainLater is the error code by which a runtime knows to repeat an ADD (CNI specification 1.1.0, section 5).
const tryAgainLater = 11

func (a *agent) awaitADD(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, addPatience)
	defer cancel()
	for _, t := range a.forADD {
		select {
		case <-t.Ready():
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", t, ctx.Err())
		}
	}
	return nil
}

// cniStatus is the answer to STATUS: a pod can be added once it would be fully served. A node whose addresses are all in
// use is healthy all the same: a failing STATUS would make it NotReady and its pods go.
func (a *agent) cniStatus() error { return notReady(a.forADD) }

func notReady(ts tasks) error {
	if waiting := ts.waiting(); len(waiting) > 0 {
		return fmt.Errorf("not ready: %s", strings.Join(waiting, ", "))
	}
	return nil
}
