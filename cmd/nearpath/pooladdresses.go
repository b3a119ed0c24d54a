package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/ipam"
)

// addressPool has the node's addresses; *ipam.Pool does.
type addressPool interface {
	Allocate(context.Context, ipam.Request) (ipam.Lease, error)
	Release(ctx context.Context, k ipam.Key, keep time.Duration) error
	Lookup(ipam.Key) (ipam.Lease, bool)
	Leases() []ipam.Lease
	Kept() []ipam.KeptAddress
}

// poolAddresses lets CNI take addresses from the pool.
type poolAddresses struct {
	pool   addressPool
	keep   func(namespace, name string) time.Duration // how long a pod's addresses stay reserved for its name
	most   func() int                                 // how many ENIs may be given to pods whole, 0 for as many as there are
	places *places
}

func (p poolAddresses) Acquire(ctx context.Context, a cni.Attachment, exclusive bool) (cni.Lease, error) {
	r := ipam.Request{
		Key: ipam.Key(a.Key), Pod: ipam.Pod{Namespace: a.Pod.Namespace, Name: a.Pod.Name, UID: a.Pod.UID}, Exclusive: exclusive,
	}
	if most := p.most(); exclusive && most > 0 {
		if err := p.places.take(r, most, p.pool); err != nil {
			return cni.Lease{}, err
		}
		defer p.places.leave(r.Key)
	}
	lease, err := p.pool.Allocate(ctx, r)
	return leaseOf(lease), err
}

// places are those of pods that are about to get an ENI of their own: the pool takes its time, and does not know what the
// configuration allows.
type places struct {
	mu    sync.Mutex
	taken map[ipam.Key]int // calls under way
	names map[ipam.Key]podName
}

// A podName is what ENIs are kept for.
type podName struct{ namespace, name string }

// take gives a pod a place until leave, if it may have an ENI of its own: there is room, or it has one already, or one is
// kept for its name. Every call that succeeds is to be followed by one of leave.
func (p *places) take(r ipam.Request, most int, pool addressPool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Leases first: what is released in between is seen twice rather than not at all. What is leased in between has a place.
	leases, kept := pool.Leases(), pool.Kept()
	if used, has := p.used(r, leases, kept); !has && used >= most {
		return fmt.Errorf("%w: pods have %d ENIs of their own and pool.exclusive.max is %d", ipam.ErrExhausted, used, most)
	}
	if p.taken == nil {
		p.taken, p.names = map[ipam.Key]int{}, map[ipam.Key]podName{}
	}
	p.taken[r.Key]++
	p.names[r.Key] = podName{r.Pod.Namespace, r.Pod.Name}
	return nil
}

// used counts ENIs that pods have, will have or may get back, and says whether one of them is for r.
func (p *places) used(r ipam.Request, leases []ipam.Lease, kept []ipam.KeptAddress) (n int, has bool) {
	keys, names := map[ipam.Key]bool{}, map[podName]bool{}
	for _, l := range leases {
		if l.Exclusive {
			keys[l.Key] = true
		}
	}
	for _, k := range kept { // one for each family
		if k.Exclusive {
			names[podName{k.Namespace, k.Name}] = true
		}
	}
	has = keys[r.Key] || p.taken[r.Key] > 0 || names[podName{r.Pod.Namespace, r.Pod.Name}]
	for k := range p.taken {
		keys[k] = true
		delete(names, p.names[k]) // it is about to get what is kept
	}
	return len(keys) + len(names), has
}

func (p *places) leave(k ipam.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[k]--; p.taken[k] == 0 {
		delete(p.taken, k)
		delete(p.names, k)
	}
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
