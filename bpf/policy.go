package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// PolicySets are the policy sets that a pod is isolated by, of ingress and egress: ids that the writer gives; 0: the pod is not
// isolated in that direction.
type PolicySets [2]uint64

// PolicyContents are all that was put. Pods are those that are isolated, by number.
type PolicyContents struct {
	Verdicts map[PolicyKey][]PolicyInterval
	Peers    map[netip.Addr]uint64
	CIDRs    map[netip.Prefix]uint64
	Pods     map[uint16]PolicySets
}

// PolicyRoom is how many entries each map has room for. A list of more than one interval takes that many Cells, equal lists
// once.
type PolicyRoom struct{ Verdicts, Peers, CIDRs, Cells, Pods int }

// policyMaps are the maps of bpf/c/policymaps.h.
type policyMaps struct {
	Pods     *ebpf.Map `ebpf:"policy_pods"`
	Peers    *ebpf.Map `ebpf:"policy_peers"`
	CIDRs    *ebpf.Map `ebpf:"policy_cidrs"`
	Verdicts *ebpf.Map `ebpf:"policy_verdicts"`
	Ports    *ebpf.Map `ebpf:"policy_ports"`
	State    *ebpf.Map `ebpf:"policy_state"`
	Tracked  *ebpf.Map `ebpf:"tracked"`
	Shares   *ebpf.Map `ebpf:"policy_shares"`
	Counts   *ebpf.Map `ebpf:"policy_counts"`
	Links    *ebpf.Map `ebpf:"pod_links"`
	Events   *ebpf.Map `ebpf:"policy_events"`
}

func (m *policyMaps) close() error {
	var errs []error
	for _, one := range []*ebpf.Map{m.Pods, m.Peers, m.CIDRs, m.Verdicts, m.Ports, m.State, m.Tracked, m.Shares, m.Counts, m.Links, m.Events} {
		errs = append(errs, one.Close()) // that of nil is none
	}
	return errors.Join(errs...)
}

// Policy is the state of NetworkPolicy in the kernel.
//
// Whose address is what is said by classes: the class of an address, or of the longest prefix that contains it, stands for the
// set of rules that name it. What a set of policies allows a class is a verdict, and each direction of a pod has one policy
// set at most. Ids of sets and classes are the writer's, and never 0.
//
// Nothing here is more than one word or one element to a program, so the writer's order decides what is in force meanwhile:
// verdicts, then peers and CIDRs, then pods. Bump then has connections judged anew that were judged before.
//
// The maps are the store, and outlive the agent. There may be one writer on a node. Methods are safe for concurrent use.
type Policy struct {
	maps      *policyMaps
	addresses *ebpf.Map
	grace     *grace

	mu      sync.Mutex
	pods    []uint64 // mapped; two words a pod
	state   []uint64 // mapped
	peers   int      // entries
	cidrs   int
	entries int // of verdicts
	lists   intervalLists
}

func newPolicy(maps *policyMaps, addresses *ebpf.Map) (_ *Policy, err error) {
	p := &Policy{maps: maps, addresses: addresses}
	if p.grace, err = newGrace(); err != nil {
		return nil, err
	}
	if p.pods, err = mapWords(maps.Pods); err != nil {
		return nil, errors.Join(fmt.Errorf("map policy_pods: %w", err), p.close())
	}
	if p.state, err = mapWords(maps.State); err != nil {
		return nil, errors.Join(fmt.Errorf("map policy_state: %w", err), p.close())
	}
	if p.lists.cells, err = mapWords(maps.Ports); err != nil {
		return nil, errors.Join(fmt.Errorf("map policy_ports: %w", err), p.close())
	}
	p.begin()
	if err := p.adopt(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the maps of policy: %w", err), p.close())
	}
	return p, nil
}

// begin chooses the secret and the first generation if nobody has.
func (p *Policy) begin() {
	if atomic.LoadUint64(&p.state[packetPolicyWordPOLICY_GENERATION]) != 0 {
		return
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	atomic.StoreUint64(&p.state[packetPolicyWordPOLICY_SECRET0], binary.NativeEndian.Uint64(b[:8]))
	atomic.StoreUint64(&p.state[packetPolicyWordPOLICY_SECRET1], binary.NativeEndian.Uint64(b[8:]))
	atomic.StoreUint64(&p.state[packetPolicyWordPOLICY_GENERATION], 1)
}

func (p *Policy) adopt() error {
	err := eachBatch(p.maps.Peers, func(packetAddress, packetPolicyPeer) error { p.peers++; return nil })
	if err != nil {
		return err
	}
	if err := eachEntry(p.maps.CIDRs, func(packetNetwork, packetPolicyCidr) { p.cidrs++ }); err != nil {
		return err
	}
	return p.adoptVerdicts()
}

// Secret is one that ids of classes and sets may be made with so that nobody can choose what has equal ones. It stays as long as
// the maps do.
func (p *Policy) Secret() (secret [16]byte) {
	binary.NativeEndian.PutUint64(secret[:8], p.state[packetPolicyWordPOLICY_SECRET0])
	binary.NativeEndian.PutUint64(secret[8:], p.state[packetPolicyWordPOLICY_SECRET1])
	return secret
}

// Generation is how often Bump was called, modulo 2^32.
func (p *Policy) Generation() uint32 {
	return uint32(atomic.LoadUint64(&p.state[packetPolicyWordPOLICY_GENERATION]))
}

// Bump has the next packet of each connection judged by what the maps say now.
func (p *Policy) Bump() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	atomic.StoreUint64(&p.state[packetPolicyWordPOLICY_GENERATION], uint64(p.Generation()+1))
	return nil
}

// Grace returns when no program uses what was deleted or replaced before. Its room is free then.
func (p *Policy) Grace() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lists.reclaim(p.grace.wait)
}

// Number is the number of the pod that has the address. The error is ErrNoPod, or ErrFull if there are more pods than numbers.
func (p *Policy) Number(addr netip.Addr) (uint16, error) {
	var value sockPodAddress
	err := p.addresses.Lookup(sockAddress{Addr: words(addr)}, &value)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return 0, fmt.Errorf("number of pod %s: %w", addr, ErrNoPod)
	case err != nil:
		return 0, fmt.Errorf("number of pod %s: %w", addr, err)
	case value.Number == 0:
		return 0, fmt.Errorf("number of pod %s: %w: there are more pods than %d", addr, ErrFull, len(p.pods)/2-1)
	}
	return value.Number, nil
}

// ErrNoPod is returned for an address that no pod of the node has.
var ErrNoPod = errors.New("no pod of this node has the address")

// PutPod switches the policy of the pod that has the number: each direction by one store, ingress first.
func (p *Policy) PutPod(number uint16, sets PolicySets) error {
	if number == 0 || int(number) >= len(p.pods)/2 {
		return fmt.Errorf("put policy of pod number %d: want 1 to %d", number, len(p.pods)/2-1)
	}
	atomic.StoreUint64(&p.pods[2*int(number)], sets[0])
	atomic.StoreUint64(&p.pods[2*int(number)+1], sets[1])
	return nil
}

// ClearPod says that the pod is not isolated.
func (p *Policy) ClearPod(number uint16) error { return p.PutPod(number, PolicySets{}) }

// Sets returns what PutPod has set; none for a number that no pod can have.
func (p *Policy) Sets(number uint16) PolicySets {
	if int(number) >= len(p.pods)/2 {
		return PolicySets{}
	}
	return PolicySets{atomic.LoadUint64(&p.pods[2*int(number)]), atomic.LoadUint64(&p.pods[2*int(number)+1])}
}

// Contents reads all maps.
func (p *Policy) Contents() (PolicyContents, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := PolicyContents{
		Verdicts: map[PolicyKey][]PolicyInterval{}, Peers: map[netip.Addr]uint64{}, CIDRs: map[netip.Prefix]uint64{}, Pods: map[uint16]PolicySets{},
	}
	err := errors.Join(
		eachBatch(p.maps.Verdicts, func(k packetVerdictKey, v packetVerdict) error {
			c.Verdicts[PolicyKey{k.Set, k.Class}] = p.intervals(v)
			return nil
		}),
		eachBatch(p.maps.Peers, func(k packetAddress, v packetPolicyPeer) error {
			c.Peers[address(k.Addr)] = v.Class
			return nil
		}),
		eachEntry(p.maps.CIDRs, func(k packetNetwork, v packetPolicyCidr) { c.CIDRs[networkPrefix(k)] = v.Class }),
	)
	if err != nil {
		return PolicyContents{}, fmt.Errorf("read the maps of policy: %w", err)
	}
	for n := range p.Room().Pods {
		if sets := p.Sets(uint16(n + 1)); sets != (PolicySets{}) {
			c.Pods[uint16(n+1)] = sets
		}
	}
	return c, nil
}

// Room says how much each map holds at most.
func (p *Policy) Room() PolicyRoom {
	m := p.maps
	return PolicyRoom{
		Verdicts: int(m.Verdicts.MaxEntries()), Peers: int(m.Peers.MaxEntries()), CIDRs: int(m.CIDRs.MaxEntries()),
		Cells: len(p.lists.cells), Pods: len(p.pods)/2 - 1,
	}
}

// Used says how much each map holds now.
func (p *Policy) Used() PolicyRoom {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := PolicyRoom{Verdicts: p.entries, Peers: p.peers, CIDRs: p.cidrs, Cells: p.lists.used()}
	for n := range p.Room().Pods {
		if p.Sets(uint16(n+1)) != (PolicySets{}) {
			used.Pods++
		}
	}
	return used
}

// link says which pod a link of the node leads to, instead of whatever was said of the link before.
func (p *Policy) link(index uint32, number uint16) error {
	if index == 0 || number == 0 {
		return nil
	}
	return full(p.maps.Links.Update(index, packetPodLink{Link: index, Number: uint32(number)}, ebpf.UpdateAny), p.maps.Links)
}

// unlink forgets the link if it leads to that pod.
func (p *Policy) unlink(index uint32, number uint16) error {
	var have packetPodLink
	err := p.maps.Links.Lookup(index, &have)
	if err == nil && have.Number == uint32(number) {
		err = p.maps.Links.Delete(index)
	}
	return ignoreMissing(err)
}

// forgetNumber makes a number as if no pod had ever had it.
func (p *Policy) forgetNumber(number uint16) error {
	if number == 0 {
		return nil
	}
	if err := p.ClearPod(number); err != nil {
		return err
	}
	if err := p.maps.Shares.Update(uint32(number), packetPolicyShare{}, ebpf.UpdateAny); err != nil {
		return err
	}
	return p.maps.Counts.Update(uint32(number), make([]packetPolicyCounts, ebpf.MustPossibleCPU()), ebpf.UpdateAny)
}

func (p *Policy) close() error {
	return errors.Join(unmapWords(p.pods), unmapWords(p.state), unmapWords(p.lists.cells), p.grace.close())
}
