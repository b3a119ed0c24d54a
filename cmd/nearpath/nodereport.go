package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"k8s.io/client-go/rest"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/ipam"
)

// A warner takes what a user can put right.
type warner interface {
	Warn(about cluster.Object, reason, message string)
}

// A nodeWarner is the warner of a process that runs on every node.
type nodeWarner interface {
	warner
	// WarnOnce is for what every node sees alike.
	WarnOnce(about cluster.Object, reason, message string)
}

// warnNode tells what is wrong with this node.
func (a *agent) warnNode(reason, message string) { a.events.Warn(cluster.Object{}, reason, message) }

// buildReports makes what the agent tells the Kubernetes API.
func (a *agent) buildReports(restConfig *rest.Config) error {
	events, err := cluster.NewEvents(cluster.EventsConfig{REST: restConfig, NodeName: a.cfg.NodeName, Log: a.log})
	if err != nil {
		return err
	}
	reporter, err := cluster.NewNodeReporter(cluster.NodeReporterConfig{REST: restConfig, NodeName: a.cfg.NodeName, Log: a.log, Registerer: a.metrics})
	if err != nil {
		return err
	}
	a.events = events
	a.nodes = func(ctx context.Context) (map[string]bool, error) { return cluster.NodeInstances(ctx, restConfig) }
	a.tasks = append(a.tasks, events, reporter, &poolReport{
		read: func() poolState {
			c := a.live.Load()
			return poolState{a.instance.ZoneID, a.pool.Stats(), capacityOf(*c, a.pool.Capacity()), a.pool.VSwitches(), c.Network.Datapath == cni.Exclusive}
		},
		set: reporter.Set, warn: a.events.Warn, ready: make(chan struct{}),
	})
	return nil
}

// Names of what a node shows of its addresses.
const (
	resourceIP    = "nearpath.io/ip"  // pods on shared ENIs
	resourceENI   = "nearpath.io/eni" // pods with an ENI of their own
	annotationMax = "k8s.aliyun.com/max-available-ip"
	reportEvery   = 2 * time.Second
)

// A poolState is what a node's report is made of.
type poolState struct {
	zone      string // the instance's
	stats     ipam.Stats
	capacity  ipam.Capacity
	vSwitches []ipam.VSwitchView
	exclusive bool // pods that ask for nothing get an ENI of their own
}

// capacityOf is what of the pool's capacity pods may have. Nothing but the configuration keeps pods from ENIs of their own.
func capacityOf(c config, have ipam.Capacity) ipam.Capacity {
	if most := c.Pool.Exclusive.Max; most > 0 {
		have.Exclusive = min(have.Exclusive, most)
	}
	return have
}

// pods is how many pods fit that ask for nothing.
func (s poolState) pods() int {
	if s.exclusive {
		return s.capacity.Exclusive
	}
	return s.capacity.Shared
}

// report says what the scheduler and people should know of the node's addresses.
func (s poolState) report() cluster.NodeReport {
	r := cluster.NodeReport{
		Resources:   map[string]int64{resourceIP: int64(s.capacity.Shared), resourceENI: int64(s.capacity.Exclusive)},
		Annotations: map[string]string{annotationMax: strconv.Itoa(s.pods())},
		Conditions:  []cluster.NodeCondition{s.condition()},
	}
	return r
}

// condition says whether a new pod would find an address.
func (s poolState) condition() cluster.NodeCondition {
	c := cluster.NodeCondition{Type: cluster.ConditionSufficientIP}
	full, blocked := s.blocked()
	if s.exclusive {
		return s.exclusiveCondition(c, full, blocked)
	}
	switch {
	case s.stats.Used+s.stats.Kept >= s.stats.Capacity:
		c.Reason = "CapacityReached"
		c.Message = fmt.Sprintf("all %d addresses that the node can have are in use: use a larger instance type, or fewer pods on the node", s.stats.Capacity)
	case s.stats.Idle+s.stats.Pending == 0 && blocked:
		c.Reason = "VSwitchFull"
		c.Message = fmt.Sprintf("no idle address is left and vSwitch %s has none: add a vSwitch of the zone to cloud.vSwitches", full)
	case s.stats.Waiting > s.stats.Idle+s.stats.Pending:
		c.Reason = "InsufficientIP"
		c.Message = fmt.Sprintf("%d pods wait for an address", s.stats.Waiting)
	default:
		c.OK, c.Reason = true, "SufficientIP"
		c.Message = fmt.Sprintf("%d of %d addresses are in use", s.stats.Used, s.stats.Capacity)
	}
	return c
}

// exclusiveCondition is that of a node whose pods get ENIs of their own.
func (s poolState) exclusiveCondition(c cluster.NodeCondition, full string, blocked bool) cluster.NodeCondition {
	x := s.stats.Exclusive
	switch most := s.capacity.Exclusive; {
	case x.Used+x.Kept >= most:
		c.Reason = "CapacityReached"
		c.Message = fmt.Sprintf("all %d ENIs that pods of the node can have are in use: use a larger instance type, or fewer pods on the node", most)
	case x.Idle+x.Pending == 0 && blocked:
		c.Reason = "VSwitchFull"
		c.Message = fmt.Sprintf("no idle ENI is left and vSwitch %s has no address: add a vSwitch of the zone to cloud.vSwitches", full)
	case x.Waiting > x.Idle+x.Pending:
		c.Reason = "InsufficientIP"
		c.Message = fmt.Sprintf("%d pods wait for an ENI", x.Waiting)
	default:
		c.OK, c.Reason = true, "SufficientIP"
		c.Message = fmt.Sprintf("%d of %d ENIs are in use", x.Used, most)
	}
	return c
}

// blocked names the last of the vSwitches of the zone if all of them are without addresses.
func (s poolState) blocked() (id string, all bool) {
	for _, v := range s.vSwitches {
		if v.Zone != "" && v.Zone != s.zone {
			continue
		}
		if v.Breaker == ipam.BreakerClosed {
			return "", false
		}
		id = v.ID
	}
	return id, id != ""
}

// A poolReport is a Task that keeps the node's report as the pool is.
type poolReport struct {
	read  func() poolState
	set   func(cluster.NodeReport)
	warn  func(about cluster.Object, reason, message string)
	ready chan struct{}
}

func (p *poolReport) String() string         { return "report of addresses" }
func (p *poolReport) Ready() <-chan struct{} { return p.ready }

func (p *poolReport) Run(ctx context.Context) error {
	close(p.ready)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	last := cluster.NodeCondition{OK: true}
	for {
		if s := p.read(); s.capacity.Shared > 0 { // the instance type is known
			p.set(s.report())
			now := s.condition()
			if !now.OK && now.Reason != last.Reason {
				p.warn(cluster.Object{}, now.Reason, now.Message)
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
