package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrFull is returned by a write that a map has no room for. The state that was published before it still stands.
var ErrFull = errors.New("map is full")

// ErrNotSupported is the error of what this kernel lacks.
var ErrNotSupported = ebpf.ErrNotSupported

// A Frontend is an address a Service port is reached at. Protocol is an IP protocol number. The unspecified address of
// a family is a wildcard: the frontend answers on every address of SetNodeAddresses that has no frontend of its own
// with the same port and protocol.
type Frontend struct {
	Addr     netip.AddrPort
	Protocol uint8
}

func (f Frontend) String() string { return fmt.Sprintf("%s/%d", f.Addr, f.Protocol) }

// FrontendKind says whose address a frontend has, and with it whom it serves. It is not part of its identity.
type FrontendKind uint8

// The kinds. A ClusterIP serves everybody by the internal traffic policy. The others serve clients inside the cluster with the
// cluster list, whatever the policies, and those outside by the external policy.
const (
	ClusterIP    = FrontendKind(sockFrontendKindFRONTEND_CLUSTER_IP)
	NodePort     = FrontendKind(sockFrontendKindFRONTEND_NODE_PORT)
	HostPort     = FrontendKind(sockFrontendKindFRONTEND_HOST_PORT)
	ExternalIP   = FrontendKind(sockFrontendKindFRONTEND_EXTERNAL_IP)
	LoadBalancer = FrontendKind(sockFrontendKindFRONTEND_LOAD_BALANCER)
	// NodeDNS is an address of the node's DNS listener: a frontend of the cluster's DNS while the listener does not serve.
	NodeDNS = FrontendKind(sockFrontendKindFRONTEND_NODE_DNS)
	// ServiceAddress, with port 0 and protocol 0, says that an address is a Service's: its ports that no other frontend has
	// refuse. It has no block, and its record means nothing.
	ServiceAddress = FrontendKind(sockFrontendKindFRONTEND_ADDRESS)
)

func (k FrontendKind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case NodePort:
		return "NodePort"
	case HostPort:
		return "HostPort"
	case ExternalIP:
		return "ExternalIP"
	case LoadBalancer:
		return "LoadBalancer"
	case NodeDNS:
		return "NodeDNS"
	case ServiceAddress:
		return "address"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A Block is what one record publishes: the backends of one Service port in one family, and what to do with its
// traffic. Backends of an empty list are rejected (ECONNREFUSED) or, with InternalDrop, left to be lost.
type Block struct {
	// Cluster and Local are the two lists of reference rows C1 to C5; all of one family. Their order means nothing, and is
	// not kept.
	Cluster, Local []netip.AddrPort
	// Draining are backends in neither list that serve still: nothing new goes to them, and datagrams of those who talk to them
	// already do (reference row G2).
	Draining []netip.AddrPort
	// InternalLocal makes clients inside the cluster choose from Local.
	InternalLocal bool
	// InternalDrop drops what finds its list empty, instead of rejecting it.
	InternalDrop bool
	// ExternalLocal makes clients outside the cluster choose from Local, and keeps their address for the backend to see.
	// Otherwise they choose from Cluster and the backend sees the node's address.
	ExternalLocal bool
	// ExternalDrop is InternalDrop for clients outside the cluster.
	ExternalDrop bool
	// NodeDNS sends connections to the node's DNS listener as long as one listens.
	NodeDNS bool
	// Affinity is for how long a client without new connections keeps its backend, in whole seconds; 0 for not at all. A change
	// counts for clients that have one, too; after it was 0 they start anew.
	Affinity time.Duration
	// SourceRanges are who may use frontends of the kind LoadBalancer; what others send there is dropped. None: everybody.
	SourceRanges []netip.Prefix
}

// An Entry is a frontend as it stands in the kernel.
type Entry struct {
	Frontend Frontend
	Kind     FrontendKind
	Record   uint32
}

// Services is the Service state in the kernel: frontends point to records, a record points to a block of backends.
//
// A block is written to unused cells and becomes visible by one aligned store to its record, so a reader sees the old
// backends or the new ones and nothing in between. Cells of a replaced block are used again only after Reclaim, which
// waits until no program can still be reading them. The safe order is Publish before PutFrontend, and DeleteFrontend
// before Retire.
//
// There may be one writer on a node. Methods are safe for concurrent use.
type Services struct {
	frontends *ebpf.Map
	ranges    *sourceRanges
	grace     *grace
	wait      func() error // that of grace

	reclaiming sync.Mutex // held while Reclaim waits; taken before mu

	mu      sync.Mutex
	records []uint64 // mapped; each word is a struct record
	blocks  []uint64 // mapped; cells
	have    map[uint32]extent
	free    free
	limbo   []extent // of replaced blocks
	leaving []extent // those for which Reclaim waits
	closed  []uint32 // records that are retired and have source ranges still
}

func newServices(frontends, records, blocks, ranges *ebpf.Map) (*Services, error) {
	s := &Services{frontends: frontends, have: map[uint32]extent{}, ranges: &sourceRanges{kernel: ranges}}
	var err error
	if s.grace, err = newGrace(); err != nil {
		return nil, err
	}
	s.wait = s.grace.wait
	if s.records, err = mapWords(records); err != nil {
		return nil, errors.Join(fmt.Errorf("map records: %w", err), s.close())
	}
	if s.blocks, err = mapWords(blocks); err != nil {
		return nil, errors.Join(fmt.Errorf("map blocks: %w", err), s.close())
	}
	if err := s.ranges.adopt(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.adopt()
	return s, nil
}

// adopt learns from the records which cells are in use. Whatever no record points to is free: a block that was
// written by an agent that died before it could publish it, for one.
func (s *Services) adopt() {
	// Cell 0 is never used: block index 0 means that nothing is published.
	s.free = free{{at: 1, n: uint32(len(s.blocks)) - 1}}
	var used []extent
	for id := range s.records {
		if at := loadRecord(&s.records[id]).Block; at != 0 {
			e := extent{at, blockCells(s.blocks[at:])}
			s.have[uint32(id)] = e
			used = append(used, e)
		}
	}
	s.free.remove(used)
	for id := range s.ranges.have {
		if _, ok := s.have[id]; !ok {
			s.closed = append(s.closed, id)
		}
	}
}

// Publish makes b what record serves. On error the record serves what it served before.
func (s *Services) Publish(record uint32, b Block) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(record) >= len(s.records) {
		return fmt.Errorf("publish record %d: %w: at most %d Service ports fit", record, ErrFull, len(s.records))
	}
	cells, err := encodeBlock(record, s.epoch(record, b), b)
	if err != nil {
		return fmt.Errorf("publish record %d: %w", record, err)
	}
	at, ok, err := s.place(uint32(len(cells)))
	if err != nil {
		return fmt.Errorf("publish record %d: %w", record, err)
	}
	if !ok {
		return fmt.Errorf("publish record %d with %d cells: %w: %d of %d cells are free, in pieces", record,
			len(cells), ErrFull, s.free.cells(), len(s.blocks))
	}
	if err := s.ranges.add(record, b.SourceRanges); err != nil {
		s.free.give(extent{at, uint32(len(cells))})
		return fmt.Errorf("publish record %d: %w", record, err)
	}
	copy(s.blocks[at:], cells)
	s.store(record, extent{at, uint32(len(cells))})
	if err := s.narrow(record, b.SourceRanges); err != nil {
		return fmt.Errorf("publish record %d: %w", record, err)
	}
	return nil
}

// narrow leaves a record the given ones of its source ranges, when no program asks for the others any more. That takes some ten
// milliseconds, but only if there are others: who is in none of the new ranges is not admitted for longer. The caller holds mu.
func (s *Services) narrow(record uint32, ranges []netip.Prefix) error {
	if !s.ranges.others(record, ranges) {
		return nil
	}
	if err := s.wait(); err != nil {
		return err
	}
	return s.ranges.keep(record, ranges)
}

// epoch is the sequence that the record had when its affinity was last switched on: entries of clients that are older than
// that do not count. The caller holds mu.
func (s *Services) epoch(record uint32, b Block) uint32 {
	if e, ok := s.have[record]; ok && b.Affinity > 0 {
		if _, policy, more, _ := header(s.blocks[e.at:]); policy.AffinitySeconds > 0 {
			return more.Epoch
		}
	}
	return loadRecord(&s.records[record]).Sequence + 1
}

// Retire stops record from serving anything; its number may be used again after the next Reclaim.
func (s *Services) Retire(record uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.have[record]; ok {
		s.store(record, extent{})
	}
	if len(s.ranges.have[record]) > 0 {
		s.closed = append(s.closed, record)
	}
}

// store is the publish operation. The caller holds mu.
func (s *Services) store(record uint32, e extent) {
	old := loadRecord(&s.records[record])
	storeRecord(&s.records[record], sockRecord{Block: e.at, Sequence: old.Sequence + 1})
	if was, ok := s.have[record]; ok {
		s.limbo = append(s.limbo, was)
	}
	if e.n == 0 {
		delete(s.have, record)
	} else {
		s.have[record] = e
	}
}

// Reclaim makes the cells of replaced blocks usable again, after every program that may be reading them has left. When
// there is something to reclaim it takes some ten milliseconds, and more on a busy machine; nothing else waits meanwhile.
func (s *Services) Reclaim() error {
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	s.mu.Lock()
	s.leaving = append(s.leaving, s.limbo...)
	s.limbo = nil
	some, closed := len(s.leaving) > 0, s.closed
	s.mu.Unlock()
	if !some && len(closed) == 0 {
		return nil
	}
	if err := s.wait(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveLeaving()
	s.closed = s.closed[len(closed):]
	for _, record := range closed {
		if _, ok := s.have[record]; !ok {
			// What stays is taken by the record's next Publish, or by the next agent's.
			_ = s.ranges.keep(record, nil)
		}
	}
	return nil
}

// giveLeaving frees what no program reads any more. The caller holds mu.
func (s *Services) giveLeaving() {
	for _, e := range s.leaving {
		s.free.give(e)
	}
	s.leaving = nil
}

// place finds room for a block of n cells, if need be by waiting for what replaced blocks leave. Nobody else adds to leaving
// meanwhile: that takes mu.
func (s *Services) place(n uint32) (at uint32, ok bool, err error) {
	if at, ok = s.free.take(n); ok || len(s.limbo)+len(s.leaving) == 0 {
		return at, ok, nil
	}
	if err := s.wait(); err != nil {
		return 0, false, err
	}
	s.leaving = append(s.leaving, s.limbo...)
	s.limbo = nil
	s.giveLeaving()
	at, ok = s.free.take(n)
	return at, ok, nil
}

// PutFrontend points a frontend to a record, replacing what it pointed to.
func (s *Services) PutFrontend(f Frontend, kind FrontendKind, record uint32) error {
	key := frontendKey(f)
	value := sockFrontend{
		Record: record, AddrFold: fold(key.Addr[:]), Port: key.Port, Proto: key.Proto, Kind: uint8(kind),
	}
	err := s.frontends.Update(key, value, ebpf.UpdateAny)
	if errors.Is(err, unix.E2BIG) {
		err = fmt.Errorf("%w: at most %d frontends fit", ErrFull, s.frontends.MaxEntries())
	}
	if err != nil {
		return fmt.Errorf("put frontend %s: %w", f, err)
	}
	return nil
}

// DeleteFrontend removes a frontend; it is no error if there is none.
func (s *Services) DeleteFrontend(f Frontend) error {
	if err := s.frontends.Delete(frontendKey(f)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete frontend %s: %w", f, err)
	}
	return nil
}

// Entries reads all frontends from the kernel, in no order.
func (s *Services) Entries() ([]Entry, error) {
	var (
		entries []Entry
		key     sockFrontendKey
		value   sockFrontend
	)
	it := s.frontends.Iterate()
	for it.Next(&key, &value) {
		entries = append(entries, Entry{
			Frontend: Frontend{Addr: netip.AddrPortFrom(address(key.Addr), swap16(key.Port)), Protocol: key.Proto},
			Kind:     FrontendKind(value.Kind), Record: value.Record,
		})
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	return entries, nil
}

// Block reads what a record publishes; ok is false when it publishes nothing.
func (s *Services) Block(record uint32) (b Block, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.have[record]
	if !ok {
		return Block{}, false
	}
	b = decodeBlock(s.blocks[e.at : e.at+e.n])
	b.SourceRanges = s.ranges.of(record)
	return b, true
}

// Records lists the records that publish something, in no order.
func (s *Services) Records() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]uint32, 0, len(s.have))
	for id := range s.have {
		ids = append(ids, id)
	}
	return ids
}

// MaxRecords is how many records there can be; record numbers are below it.
func (s *Services) MaxRecords() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint32(len(s.records))
}

// close unmaps. Late callers find no records and no room.
func (s *Services) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errors.Join(unmapWords(s.records), unmapWords(s.blocks), s.grace.close())
	s.records, s.blocks, s.free, s.limbo, s.leaving = nil, nil, nil, nil, nil
	clear(s.have)
	return err
}

func frontendKey(f Frontend) sockFrontendKey {
	return sockFrontendKey{Addr: words(f.Addr.Addr()), Port: swap16(f.Addr.Port()), Proto: f.Protocol}
}

func loadRecord(word *uint64) sockRecord {
	v := atomic.LoadUint64(word)
	return sockRecord{Block: uint32(v), Sequence: uint32(v >> 32)}
}

// storeRecord is release-ordered after the writes to the block: atomics are sequentially consistent in Go.
func storeRecord(word *uint64, r sockRecord) {
	atomic.StoreUint64(word, uint64(r.Sequence)<<32|uint64(r.Block))
}

// UsedCells is how many cells of the blocks map are not free: those of what is published, and of what was replaced and waits
// for Reclaim.
func (s *Services) UsedCells() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.blocks) - 1 - int(s.free.cells())
}
