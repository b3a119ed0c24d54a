package main

import (
	"context"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/ipam"
)

// Components do not know each other; these types say to each what the other means.

// hostLinks lets the pool wire its ENIs.
type hostLinks struct{ host *hostnet.Host }

func (h hostLinks) EnsureENI(ctx context.Context, e ipam.LeaseENI) error {
	return h.host.EnsureENI(ctx, eniOf(e))
}

func eniOf(e ipam.LeaseENI) hostnet.ENI {
	out := hostnet.ENI{MAC: e.MAC, Slot: e.Slot}
	for _, n := range e.Nets {
		out.Nets = append(out.Nets, hostnet.Net(n))
	}
	return out
}

func (h hostLinks) RemoveENI(ctx context.Context, e ipam.LeaseENI) error {
	return h.host.RemoveENI(ctx, e.MAC)
}

// poolSettings are what the configuration says of the pool and may change while the agent runs.
func poolSettings(c config) ipam.Settings {
	p := c.Pool
	return ipam.Settings{
		Watermarks:     ipam.Watermarks{MinIdle: p.MinIdle, MaxIdle: p.MaxIdle, MinTotal: p.MinTotal, WarmUp: p.WarmUp},
		ENIs:           ipam.ENILimits{Min: p.MinENIs, Max: p.MaxENIs, Ratio: p.ENIRatio, Shift: p.ENIShift},
		VSwitches:      c.Cloud.VSwitches,
		VSwitchPolicy:  ipam.VSwitchPolicy(c.Cloud.VSwitchPolicy),
		SecurityGroups: c.Cloud.SecurityGroups,
		ENIPolicy:      ipam.ENIPolicy(p.ENIPolicy),
		Tags:           c.Cloud.ENITags, TagFilter: c.Cloud.ENITagFilter, TagBlock: c.Cloud.ENITagBlock,
		ResourceGroupID: c.Cloud.ResourceGroup,
		Cooldown:        time.Duration(p.Cooldown), ReuseCooling: p.ReuseCooling,
		Idle: ipam.IdleReclaim{
			After: time.Duration(p.IdleReclaim.After), Interval: time.Duration(p.IdleReclaim.Interval),
			Batch: p.IdleReclaim.Batch, Jitter: p.IdleReclaim.Jitter,
		},
	}
}

// poolFamilies are those of every pod's addresses.
func poolFamilies(c config) []aliyun.Family {
	if c.Pool.Stack == "dual" {
		return []aliyun.Family{aliyun.IPv4, aliyun.IPv6}
	}
	return []aliyun.Family{aliyun.IPv4}
}

// poolAddresses lets CNI take addresses from the pool.
type poolAddresses struct {
	pool *ipam.Pool
	keep func(namespace, name string) time.Duration // how long a pod's addresses stay reserved for its name
}

func (p poolAddresses) Acquire(ctx context.Context, a cni.Attachment, exclusive bool) (cni.Lease, error) {
	lease, err := p.pool.Allocate(ctx, ipam.Request{
		Key: ipam.Key(a.Key), Pod: ipam.Pod{Namespace: a.Pod.Namespace, Name: a.Pod.Name, UID: a.Pod.UID}, Exclusive: exclusive,
	})
	return leaseOf(lease), err
}

func (p poolAddresses) Release(ctx context.Context, k cni.Key) error {
	var keep time.Duration
	if lease, ok := p.pool.Lookup(ipam.Key(k)); ok {
		keep = p.keep(lease.Pod.Namespace, lease.Pod.Name)
	}
	return p.pool.Release(ctx, ipam.Key(k), keep)
}

func (p poolAddresses) Lookup(k cni.Key) (cni.Lease, bool) {
	lease, ok := p.pool.Lookup(ipam.Key(k))
	return leaseOf(lease), ok
}

func (p poolAddresses) List() (out []cni.Leased) {
	for _, lease := range p.pool.Leases() {
		pod := cni.PodRef{Namespace: lease.Pod.Namespace, Name: lease.Pod.Name, UID: lease.Pod.UID}
		out = append(out, cni.Leased{Attachment: cni.Attachment{Key: cni.Key(lease.Key), Pod: pod}, Lease: leaseOf(lease)})
	}
	return out
}

func leaseOf(l ipam.Lease) cni.Lease {
	e := eniOf(l.ENI)
	return cni.Lease{Addrs: l.Addrs, Slot: e.Slot, MAC: e.MAC, Nets: e.Nets, Exclusive: l.Exclusive}
}

// backendTexts renders what a record serves for people.
func backendTexts(b bpf.Block) (out []string) {
	list := b.Cluster
	if b.InternalLocal {
		list = b.Local
	}
	for _, a := range list {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return out
}
