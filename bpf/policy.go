package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// PolicySets are the policy sets that a pod is isolated by, ids that the writer gives; 0: the pod is not isolated in that direction.
type PolicySets struct{ Ingress, Egress uint64 }

// A PolicyPod is what policy knows of a pod.
type PolicyPod struct {
	Number uint16
	Addrs  []netip.Addr
	PolicySets
}

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

// Bump has the next packet of each connection judged by what the maps say now. It returns the new generation.
func (p *Policy) Bump() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.Generation() + 1
	atomic.StoreUint64(&p.state[packetPolicyWordPOLICY_GENERATION], uint64(next))
	return next
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

// SetPod switches the policy of the pod that has the number: each direction by one store, ingress first.
func (p *Policy) SetPod(number uint16, sets PolicySets) error {
	if number == 0 || int(number) >= len(p.pods)/2 {
		return fmt.Errorf("set policy of pod number %d: want 1 to %d", number, len(p.pods)/2-1)
	}
	atomic.StoreUint64(&p.pods[2*int(number)], sets.Ingress)
	atomic.StoreUint64(&p.pods[2*int(number)+1], sets.Egress)
	return nil
}

// ClearPod says that the pod is not isolated.
func (p *Policy) ClearPod(number uint16) error { return p.SetPod(number, PolicySets{}) }

// Sets returns what SetPod has set; none for a number that no pod can have.
func (p *Policy) Sets(number uint16) PolicySets {
	if int(number) >= len(p.pods)/2 {
		return PolicySets{}
	}
	return PolicySets{atomic.LoadUint64(&p.pods[2*int(number)]), atomic.LoadUint64(&p.pods[2*int(number)+1])}
}

// Pods are the pods of the node, and the isolated ones of numbers that no pod has, by number.
func (p *Policy) Pods() ([]PolicyPod, error) {
	addrs := map[uint16][]netip.Addr{}
	err := eachEntry(p.addresses, func(k sockAddress, v sockPodAddress) {
		addrs[v.Number] = append(addrs[v.Number], address(k.Addr))
	})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var out []PolicyPod
	for n := uint16(1); int(n) < len(p.pods)/2; n++ {
		sets := p.Sets(n)
		if len(addrs[n]) == 0 && sets == (PolicySets{}) {
			continue
		}
		slices.SortFunc(addrs[n], netip.Addr.Compare)
		out = append(out, PolicyPod{Number: n, Addrs: addrs[n], PolicySets: sets})
	}
	return out, nil
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
