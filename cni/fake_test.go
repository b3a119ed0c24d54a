package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// fakeAddresses leases 10.9.0.10 and up, all on slot 1, and remembers what Release was asked.
type fakeAddresses struct {
	mu       sync.Mutex // guards what follows
	leases   map[Key]Leased
	next     netip.Addr
	dual     bool // lease fd09:: and the last byte, too
	released []Key
	fail     error
}

func newFakeAddresses() *fakeAddresses {
	return &fakeAddresses{leases: map[Key]Leased{}, next: netip.MustParseAddr("10.9.0.10")}
}

func (f *fakeAddresses) Acquire(_ context.Context, a Attachment, _ bool) (Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return Lease{}, f.fail
	}
	if l, ok := f.leases[a.Key]; ok {
		return l.Lease, nil
	}
	l := Lease{Addrs: []netip.Addr{f.next}, Slot: 1}
	if f.dual {
		low := f.next.As4()
		l.Addrs = append(l.Addrs, netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: low[3]}))
	}
	f.next = f.next.Next()
	f.leases[a.Key] = Leased{a, l}
	return l, nil
}

func (f *fakeAddresses) Release(_ context.Context, k Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = append(f.released, k)
	delete(f.leases, k)
	return nil
}

func (f *fakeAddresses) Lookup(k Key) (Lease, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.leases[k]
	return l.Lease, ok
}

func (f *fakeAddresses) List() []Leased {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.leases))
}

// fakePods keeps entries by address.
type fakePods struct {
	mu      sync.Mutex // guards what follows
	entries map[netip.Addr]PodEntry
	fail    error
}

func newFakePods() *fakePods { return &fakePods{entries: map[netip.Addr]PodEntry{}} }

func (f *fakePods) Add(_ context.Context, e PodEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if len(e.Addrs) == 0 || e.NetNSCookie == 0 || e.HostNSID < 0 {
		return fmt.Errorf("entry is not whole: %+v", e)
	}
	for _, addr := range e.Addrs {
		f.entries[addr] = e
	}
	return nil
}

func (f *fakePods) Remove(_ context.Context, e PodEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(e.Addrs) == 0 && e.NetNSCookie == 0 {
		return errors.New("entry names nobody")
	}
	for _, addr := range e.Addrs {
		delete(f.entries, addr)
	}
	return nil
}

func (f *fakePods) Has(_ context.Context, e PodEntry) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, ok := f.entries[e.Addrs[0]]
	return ok && have.NetNSCookie == e.NetNSCookie && have.HostNSID == e.HostNSID, nil
}

func (f *fakePods) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries)
}
