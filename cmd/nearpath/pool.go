package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/ipam"
)

// buildCloud learns which instance this is and makes the client of the cloud's API.
func (a *agent) buildCloud(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.StateDir, 0o700); err != nil {
		return err
	}
	metadata := aliyun.NewMetadata(a.cfg.Cloud.Metadata)
	instance, err := identify(ctx, metadata, filepath.Join(a.cfg.StateDir, "instance.json"), a.log)
	if err != nil {
		return fmt.Errorf("learn which instance this is from %s: %w", a.cfg.Cloud.Metadata, err)
	}
	if region := a.cfg.Cloud.Region; region != "" && region != instance.RegionID {
		return usageError{fmt.Errorf("cloud.region: %q: the instance is in %q: use that, or leave the key out", region, instance.RegionID)}
	}
	a.instance = instance
	a.client, err = a.connect(instance.RegionID, metadata)
	return err
}

func (a *agent) connect(region string, metadata *aliyun.Metadata) (*aliyun.Client, error) {
	c := a.cfg.Cloud
	creds, err := c.credentials(region, metadata, a.log)
	if err != nil {
		return nil, err
	}
	return aliyun.NewClient(aliyun.Config{
		RegionID: region, Endpoint: c.Endpoint, VPCEndpoint: c.VPCEndpoint, Internal: c.Internal, InsecureHTTP: c.InsecureHTTP,
		Credentials: creds, RateLimits: c.RateLimits, Metrics: a.metrics, Logger: a.log,
	})
}

func (a *agent) buildPool(context.Context) (err error) {
	cookie, err := bpf.NetNSCookie()
	if err != nil {
		return err
	}
	nodePorts, err := a.cfg.Services.nodePorts()
	if err != nil {
		return err
	}
	if a.host, err = hostnet.New(hostnet.Config{
		NodeDNS: a.cfg.DNS.addresses(), Egress: keptEgress(a.cfg), SpreadIRQs: a.cfg.Pool.SpreadIRQs, Log: a.log,
		HostNetworks: a.cfg.Network.HostNetworks, NodePorts: nodePorts, ENIs: a.poolMACs, Programs: nodePrograms{a.datapath, cookie}, Report: a.warnNode,
		Unmanage: a.cfg.Network.HostRoot, Root: a.cfg.Network.HostRoot,
	}); err != nil {
		return err
	}
	a.closers = append(a.closers, a.host.Close)
	a.pool, err = ipam.Open(ipam.Config{
		Path: filepath.Join(a.cfg.StateDir, "ipam.db"), Cloud: a.client, Links: hostLinks{a.host},
		InstanceID: a.instance.ID, Owner: a.cfg.Cloud.ClusterID,
		Families: poolFamilies(a.cfg), Settings: poolSettings(a.cfg), InUse: a.addressesInUse, Slots: a.host.Slots, Settled: a.reaper.Settled,
		Metrics: a.metrics, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, a.pool.Close)
	var routed []hostnet.ENI
	if a.pool.Rebuilding() {
		if routed, err = a.host.Routed(); err != nil {
			return err
		}
	}
	for _, e := range wiredBefore(a.pool.ENIs(), routed) {
		a.host.Want(e)
	}
	if id := a.cfg.Cloud.ClusterID; id != "" && a.nodes != nil {
		sweeper, err := ipam.NewSweeper(ipam.SweeperConfig{Cloud: a.client, Owner: id, InstanceID: a.instance.ID, Nodes: a.nodes, Log: a.log})
		if err != nil {
			return err
		}
		a.tasks = append(a.tasks, sweeper)
	}
	a.tasks = append(a.tasks, a.host, a.pool)
	a.forADD = append(a.forADD, a.host, a.pool)
	return nil
}

// poolMACs are those of all ENIs in the pool's journal, those that are not wired, not attached or a pod's own included.
func (a *agent) poolMACs() (macs []string) {
	if a.pool == nil { // not open yet
		return nil
	}
	for _, e := range a.pool.ENIs() {
		macs = append(macs, e.MAC)
	}
	return macs
}

// wiredBefore lists the ENIs whose routes are from an earlier agent. Pods go on using them: the host network must know
// them before it looks for stale ones. Routed ones that the pool, being rebuilt, does not know yet are among them.
func wiredBefore(known []ipam.ENI, routed []hostnet.ENI) (list []hostnet.ENI) {
	for _, e := range known {
		if !e.Exclusive && (e.State == ipam.ENIInUse || e.State == ipam.ENIDraining) {
			list = append(list, eniOf(e.LeaseENI))
		}
	}
	for _, r := range routed {
		if !slices.ContainsFunc(known, func(e ipam.ENI) bool { return e.MAC == r.MAC || e.Slot == r.Slot }) {
			list = append(list, r)
		}
	}
	return list
}

// addressesInUse is what the links of the node say, for addresses that the journal does not know.
func (a *agent) addressesInUse(context.Context) ([]ipam.InUse, error) {
	wired, err := cni.Wired("", cni.RecordsDir(a.cfg.Socket))
	if err != nil {
		return nil, err
	}
	var found []ipam.InUse
	for _, w := range wired {
		for _, addr := range w.Lease.Addrs {
			found = append(found, ipam.InUse{Addr: addr, Key: ipam.Key(w.Attachment.Key), Exclusive: w.Lease.Exclusive})
		}
	}
	return found, nil
}

// annotationKeep asks for what pods of a StatefulSet have anyway; the name is Terway's.
const annotationKeep = "k8s.aliyun.com/pod-ip-reservation"

// keepFor keeps the addresses of any pod that has a name while nothing is known of pods yet: deletions from before this
// agent are done before the first listing is there.
func (a *agent) keepFor(namespace, name string) time.Duration {
	c, snapshot := a.live.Load().Pool, a.store.Snapshot()
	if !snapshot.Synced() && name != "" {
		return time.Duration(c.KeepFor)
	}
	return keepFor(c, snapshot.Pod(cluster.Name{Namespace: namespace, Name: name}))
}

// keepFor is how long the addresses of a pod stay reserved for its name. A pod that has left the API already leaves
// nothing: it was not deleted in the ordinary way, in which the object outlives the network.
func keepFor(c poolConfig, pod *cluster.Pod) time.Duration {
	if pod == nil || !slices.Contains(c.KeepKinds, pod.Owner.Kind) && pod.Annotations[annotationKeep] != "true" {
		return 0
	}
	return time.Duration(c.KeepFor)
}
