package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/ipam"
)

// slowPool takes a minute for each address.
type slowPool struct {
	mu     sync.Mutex // guards leases
	leases []ipam.Lease
	kept   []ipam.KeptAddress
	err    error
}

func (p *slowPool) Allocate(_ context.Context, r ipam.Request) (ipam.Lease, error) {
	time.Sleep(time.Minute)
	if p.err != nil {
		return ipam.Lease{}, p.err
	}
	lease := ipam.Lease{Key: r.Key, Pod: r.Pod, Exclusive: r.Exclusive}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = append(p.leases, lease)
	return lease, nil
}

func (p *slowPool) Release(context.Context, ipam.Key, time.Duration) error { return nil }
func (p *slowPool) Lookup(ipam.Key) (ipam.Lease, bool)                     { return ipam.Lease{}, false }
func (p *slowPool) Leases() []ipam.Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.leases)
}
func (p *slowPool) Kept() []ipam.KeptAddress { return p.kept }

func attachmentWith(container string) cni.Attachment {
	a := attachmentOf(container, "")
	a.ContainerID = container
	return a
}

// TestExclusivePlaces: pods get ENIs of their own side by side, no more of them than the configuration allows, and one
// that has one already, or for whose name one is kept, is never refused.
func TestExclusivePlaces(t *testing.T) {
	t.Parallel()
	leased := func(id string) ipam.Lease { return ipam.Lease{Key: ipam.Key{ContainerID: id}, Exclusive: true} }
	keptFor := func(name string) ipam.KeptAddress {
		return ipam.KeptAddress{Namespace: "shop", Name: name, Exclusive: true}
	}
	for name, tt := range map[string]struct {
		pool    *slowPool
		most    int
		ask     []string
		refused int
	}{
		"side by side":                 {&slowPool{}, 3, []string{"a", "b", "c"}, 0},
		"one too many":                 {&slowPool{}, 2, []string{"a", "b", "c"}, 1},
		"beside one that has one":      {&slowPool{leases: []ipam.Lease{leased("x")}}, 2, []string{"a", "b"}, 1},
		"beside shared addresses":      {&slowPool{leases: []ipam.Lease{{Key: ipam.Key{ContainerID: "x"}}}}, 2, []string{"a", "b"}, 0},
		"it has one":                   {&slowPool{leases: []ipam.Lease{leased("a")}}, 1, []string{"a"}, 0},
		"the same twice":               {&slowPool{}, 1, []string{"a", "a"}, 0},
		"one is kept for another":      {&slowPool{kept: []ipam.KeptAddress{keptFor("x"), keptFor("x")}}, 2, []string{"a", "b"}, 1},
		"one is kept for it":           {&slowPool{kept: []ipam.KeptAddress{keptFor("a"), keptFor("a")}}, 1, []string{"a"}, 0},
		"kept ones of shared ENIs":     {&slowPool{kept: []ipam.KeptAddress{{Namespace: "shop", Name: "x"}}}, 1, []string{"a"}, 0},
		"kept for one, and for others": {&slowPool{kept: []ipam.KeptAddress{keptFor("a")}}, 2, []string{"a", "b", "c"}, 1},
		"as many as there are":         {&slowPool{}, 0, []string{"a", "b", "c"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := poolAddresses{pool: tt.pool, most: func() int { return tt.most }, places: &places{}}
				began, answers := time.Now(), make(chan error, len(tt.ask))
				for _, id := range tt.ask {
					go func() {
						_, err := p.Acquire(t.Context(), attachmentWith(id), true)
						answers <- err
					}()
				}
				refused := 0
				for range tt.ask {
					if err := <-answers; err != nil {
						refused++
						if !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "pool.exclusive.max") {
							t.Error(err)
						}
					}
				}
				if refused != tt.refused {
					t.Errorf("%d are refused, want %d", refused, tt.refused)
				}
				if took := time.Since(began); took != time.Minute {
					t.Errorf("they took %s, one after another", took)
				}
			})
		})
	}
	// A place is free again after an ADD that failed.
	synctest.Test(t, func(t *testing.T) {
		wrong := errors.New("wrong")
		p := poolAddresses{pool: &slowPool{err: wrong}, most: func() int { return 1 }, places: &places{}}
		for _, id := range []string{"a", "b"} {
			if _, err := p.Acquire(t.Context(), attachmentWith(id), true); !errors.Is(err, wrong) {
				t.Error(err)
			}
		}
	})
}

func TestCapacityOf(t *testing.T) {
	t.Parallel()
	if got := capacityOf(config{Pool: poolConfig{Exclusive: exclusiveConfig{Max: 1}}}, ipam.Capacity{Shared: 9, Exclusive: 3}); got != (ipam.Capacity{Shared: 9, Exclusive: 1}) {
		t.Errorf("%+v", got)
	}
}
