package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/atomicfile"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/preflight"
)

// buildNetwork makes what watches the network around the node and the way out of it.
func (a *agent) buildNetwork(context.Context) error {
	watcher, err := preflight.NewWatcher(preflight.Config{
		Cloud: a.client, Query: func() preflight.Query { return queryOf(*a.live.Load(), a.instance) },
		Report: a.reportFindings, Metrics: a.metrics, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.recheck = watcher.Recheck
	a.egress = &egress{
		config: func() config { return *a.live.Load() }, services: a.serviceCIDRs,
		vpc:   func(ctx context.Context) (aliyun.VPC, error) { return a.client.DescribeVPC(ctx, a.instance.VPCID) },
		apply: a.host.SetEgress, kept: keptEgress(a.cfg),
		keep: func(e hostnet.Egress) error { return keepEgress(a.cfg, e) },
		log:  a.log.Warn, changed: make(chan struct{}, 1), ready: make(chan struct{}),
	}
	a.tasks = append(a.tasks, watcher, a.egress)
	a.forADD = append(a.forADD, a.egress)
	return nil
}

// reportFindings makes events of what a user can put right.
func (a *agent) reportFindings(changes []preflight.Change) {
	for _, c := range changes {
		if !c.Resolved && (c.Severity == preflight.Error || c.Severity == preflight.Warning) {
			a.events.Warn(cluster.Object{}, "NetworkCheckFailed", c.String())
		}
	}
}

// applyTo changes the pool and the client from one configuration to the next, or neither of them.
func applyTo(pool func(config) error, limits func(map[string]int) error, next, last config) error {
	if err := pool(next); err != nil {
		return err
	}
	if err := limits(next.Cloud.RateLimits); err != nil {
		return errors.Join(fmt.Errorf("cloud.rateLimits: %w", err), pool(last))
	}
	return nil
}

// applyConfig makes what can change at once so. The pool refuses settings that contradict each other, and then nothing
// has changed.
func (a *agent) applyConfig(c config) error {
	configure := func(c config) error { return a.pool.Configure(poolSettings(c)) }
	if err := applyTo(configure, a.client.SetRateLimits, c, *a.live.Load()); err != nil {
		return err
	}
	a.logLevel.Set(c.LogLevel)
	a.live.Store(&c)
	a.recheck()
	a.egress.wake()
	return nil
}

const (
	// vpcEvery is how often the VPC is asked for its networks: it may get further ones.
	vpcEvery = 10 * time.Minute
	vpcRetry = 10 * time.Second
)

// An egress is a Task that keeps the node's way out as configured. To tell the outside from the VPC it must know the
// VPC's networks; until it does, what it knew the last time stays.
type egress struct {
	config func() config
	// services are where Services have their addresses.
	services func() []netip.Prefix
	vpc      func(context.Context) (aliyun.VPC, error)
	apply    func(hostnet.Egress) error
	kept     hostnet.Egress // of an earlier agent; the zero value: none
	keep     func(hostnet.Egress) error
	log      func(msg string, args ...any)
	changed  chan struct{} // capacity 1
	ready    chan struct{}
}

func (e *egress) String() string { return "way out" }

// Ready is closed when the way out has been set once. With EgressNodeSNAT a pod that starts before would open connections
// to the outside that go nowhere, and go on doing so after. Otherwise pods need not wait.
func (e *egress) Ready() <-chan struct{} { return e.ready }

func (e *egress) wake() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *egress) Run(ctx context.Context) error {
	switch {
	case e.config().Egress.Mode != string(hostnet.EgressNodeSNAT):
		e.closeReady()
	case e.kept.Mode != "":
		if err := e.set(e.kept); err != nil {
			e.log("way out not as it was kept", "err", err)
		}
	}
	for {
		pause := vpcEvery
		if err := e.once(ctx); err != nil && ctx.Err() == nil {
			e.log("way out not as configured", "err", err)
			pause = vpcRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-e.changed:
			timer.Stop()
		}
	}
}

func (e *egress) once(ctx context.Context) error {
	c := e.config()
	if c.Egress.Mode != string(hostnet.EgressNodeSNAT) {
		return e.set(hostnet.Egress{Mode: hostnet.EgressNone})
	}
	vpc, err := e.vpc(ctx)
	if err != nil {
		return fmt.Errorf("learn the networks of the VPC: %w", err)
	}
	networks := slices.Clone(vpc.CIDRs)
	if vpc.IPv6CIDR.IsValid() {
		networks = append(networks, vpc.IPv6CIDR)
	}
	return e.set(hostnet.Egress{
		Mode: hostnet.EgressNodeSNAT, VPC: networks, Services: e.services(), Exempt: slices.Concat(c.Egress.Exempt, vendorNetworks),
	})
}

// set applies and keeps the way out. Pods are let go on also when the kernel refuses: it may for ever, as one without
// masquerading does, and what is within the VPC works without.
func (e *egress) set(to hostnet.Egress) error {
	defer e.closeReady()
	if err := e.apply(to); err != nil {
		return err
	}
	if err := e.keep(to); err != nil {
		return fmt.Errorf("keep the way out for the next start: %w", err)
	}
	return nil
}

func (e *egress) closeReady() {
	select {
	case <-e.ready:
	default:
		close(e.ready)
	}
}

func egressPath(c config) string { return filepath.Join(c.StateDir, "egress.json") }

func keepEgress(c config, e hostnet.Egress) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return atomicfile.Write(egressPath(c), text, 0o600)
}

// keptEgress is the way out that an earlier agent of the same mode kept, the zero value if there is none that can be
// used. After a reboot pods have it before the cloud's API is reached.
func keptEgress(c config) (e hostnet.Egress) {
	text, err := os.ReadFile(egressPath(c))
	if err != nil || json.Unmarshal(text, &e) != nil || e.Check() != nil {
		return hostnet.Egress{}
	}
	if e.Mode != hostnet.EgressNodeSNAT || c.Egress.Mode != string(hostnet.EgressNodeSNAT) {
		return hostnet.Egress{}
	}
	return e
}

// vendorNetworks are where the vendor's own services are, which know instances and pods by their addresses (Alibaba
// Cloud, "reserved CIDR blocks": 100.64.0.0/10).
var vendorNetworks = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}
