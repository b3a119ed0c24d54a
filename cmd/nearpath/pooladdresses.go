package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/ipam"
)

// poolAddresses lets CNI take addresses from the pool.
type poolAddresses struct {
	pool *ipam.Pool
	keep func(namespace, name string) time.Duration // how long a pod's addresses stay reserved for its name
	// most is how many ENIs may be given to pods whole, 0 for as many as there are; turn is held while one is asked for.
	most func() int
	turn chan struct{} // capacity 1
}

func (p poolAddresses) Acquire(ctx context.Context, a cni.Attachment, exclusive bool) (cni.Lease, error) {
	if exclusive && p.most() > 0 {
		select {
		case p.turn <- struct{}{}:
			defer func() { <-p.turn }()
		case <-ctx.Done():
			return cni.Lease{}, fmt.Errorf("wait for another pod that gets an ENI: %w", ctx.Err())
		}
		if err := roomFor(ipam.Key(a.Key), p.pool.Leases(), p.most()); err != nil {
			return cni.Lease{}, err
		}
	}
	lease, err := p.pool.Allocate(ctx, ipam.Request{
		Key: ipam.Key(a.Key), Pod: ipam.Pod{Namespace: a.Pod.Namespace, Name: a.Pod.Name, UID: a.Pod.UID}, Exclusive: exclusive,
	})
	return leaseOf(lease), err
}

// roomFor says whether one more pod may have an ENI of its own, unless it has one already.
func roomFor(k ipam.Key, leases []ipam.Lease, most int) error {
	used := 0
	for _, l := range leases {
		if l.Exclusive && l.Key == k {
			return nil
		}
		if l.Exclusive {
			used++
		}
	}
	if used >= most {
		return fmt.Errorf("%w: pods have %d ENIs of their own and pool.exclusive.max is %d", ipam.ErrExhausted, used, most)
	}
	return nil
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
