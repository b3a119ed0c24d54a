package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// An AffinityEntry is a client that keeps its backend.
type AffinityEntry struct {
	// Client is its address. One that is not known has the cookie of its network namespace in the last eight bytes.
	Client netip.Addr
	Record uint32
	// Local says that it chose from the local list, and not from the cluster's. A client may have one entry of each.
	Local   bool
	Backend netip.AddrPort
	// LastUsed is when the client last opened a connection, on the clock of Clock.
	LastUsed time.Duration
}

// AffinityStats is what a Sweep found.
type AffinityStats struct {
	// Entries is how many clients are remembered, per port and list, and Max how many fit.
	Entries, Max int
	// Swept is how many the Sweep forgot.
	Swept int
	// Full counts connections whose client could not be remembered, since the datapath was first loaded.
	Full uint64
}

// Affinity is which client goes to which backend, for Service ports that have it so. Methods are safe for concurrent use.
type Affinity struct {
	entries, counts *ebpf.Map
	services        *Services
}

// each calls visit for the entries, which may be changed meanwhile: see [Flows.each].
func (a *Affinity) each(visit func(sockAffinityKey, sockAffinity) error) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]sockAffinityKey, flowBatch), make([]sockAffinity, flowBatch)
	for {
		n, err := a.entries.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return fmt.Errorf("read affinity: %w", err)
		}
		for i := range n {
			if err := visit(keys[i], values[i]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// List reads all clients that are remembered, in no order.
func (a *Affinity) List() (out []AffinityEntry, err error) {
	err = a.each(func(k sockAffinityKey, v sockAffinity) error {
		out = append(out, affinityEntry(k, v))
		return nil
	})
	return out, err
}

func affinityEntry(k sockAffinityKey, v sockAffinity) AffinityEntry {
	return AffinityEntry{
		Client: address(k.Client), Record: k.Record, Local: k.Local != 0, Backend: addrPort(v.Backend, v.Port),
		LastUsed: time.Duration(v.LastUsed),
	}
}

// Sweep forgets the clients whose time is over, and those of Service ports that have no affinity any more. now is on the
// clock of Clock.
func (a *Affinity) Sweep(now time.Duration) (s AffinityStats, err error) {
	s.Max = int(a.entries.MaxEntries())
	holds := func(k sockAffinityKey, v sockAffinity) bool {
		timeout, epoch := a.services.affinity(k.Record)
		return timeout > 0 && v.Epoch == epoch && now-time.Duration(v.LastUsed) < timeout
	}
	err = a.each(func(k sockAffinityKey, v sockAffinity) error {
		if holds(k, v) {
			s.Entries++
			return nil
		}
		// The client may have come back since.
		err := a.entries.Lookup(k, &v)
		if err == nil && holds(k, v) {
			s.Entries++
			return nil
		}
		if err == nil {
			err = a.entries.Delete(k)
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("forget a client: %w", err)
		}
		s.Swept++
		return nil
	})
	if err != nil {
		return s, err
	}
	s.Full, err = readCount(a.counts, packetPacketCountCOUNT_AFFINITY_FULL)
	return s, err
}

// readCount reads a counter of the programs, over all processors.
func readCount(counts *ebpf.Map, which packetPacketCount) (sum uint64, err error) {
	var perCPU []uint64
	if err := counts.Lookup(uint32(which), &perCPU); err != nil {
		return 0, fmt.Errorf("read the programs' counters: %w", err)
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// affinity is for how long clients of a record keep their backends, and since when.
func (s *Services) affinity(record uint32) (timeout time.Duration, epoch uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.have[record]
	if !ok {
		return 0, 0
	}
	_, policy, more, _ := header(s.blocks[e.at:])
	return time.Duration(policy.AffinitySeconds) * time.Second, more.Epoch
}
