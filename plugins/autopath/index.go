package autopath

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/nearpath/nearpath/autopath"
)

// An index knows how the pods of a cluster search, by their addresses: at most 100 bytes each, whatever they are called.
//
// A pod claims its addresses from its start to its end. An address that two pods claim is nobody's: one of the claims is
// old, and the index cannot know which. Pods are told apart by a 64-bit keyed hash of their UIDs.
//
// It is safe for concurrent use.
type index struct {
	seed maphash.Seed

	mu     sync.RWMutex // guards what follows
	chunks [][]claim    // of chunkSize, the last one growing
	used   uint32       // claims ever taken from chunks
	free   []uint32     // claims given back
	byUID  table        // of claims
	byAddr table        // of claims*2 + which address
	scopes scopes
}

// A claim is a pod that has addresses. 48 bytes.
type claim struct {
	uid   uint64      // hash
	addrs [2][16]byte // IPv4 as mapped to IPv6; zero for none
	scope uint32
	since uint32 // seconds since 1970, when it begins
}

const chunkSize = 1024

func newIndex(c autopath.Cluster) *index {
	x := &index{seed: maphash.MakeSeed(), scopes: scopes{cluster: c, byKey: make(map[string]uint32)}}
	x.byUID.hashOf = func(ref uint32) uint64 { return x.claim(ref).uid }
	x.byAddr.hashOf = func(ref uint32) uint64 { return x.hashAddr(x.claim(ref / 2).addrs[ref%2]) }
	return x
}

func (x *index) claim(ref uint32) *claim { return &x.chunks[ref/chunkSize][ref%chunkSize] }

func (x *index) hashAddr(addr [16]byte) uint64 { return maphash.Bytes(x.seed, addr[:]) }

func (x *index) hashUID(uid string) uint64 { return maphash.String(x.seed, uid) }

// put replaces what the pod claims. A pod whose search cannot be known claims nothing; the error says why.
func (x *index) put(p pod) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	uid := x.hashUID(p.uid)
	x.remove(uid)
	if len(p.addrs) == 0 {
		return nil
	}
	scope, err := x.scopes.acquire(p)
	if err != nil {
		return err
	}
	ref := x.take()
	c := x.claim(ref)
	*c = claim{uid: uid, scope: scope, since: uint32(max(p.since.Unix(), 0))}
	x.byUID.insert(ref)
	for i, addr := range p.addrs {
		c.addrs[i] = addr.As16()
		x.byAddr.insert(2*ref + uint32(i))
	}
	return nil
}

// delete forgets a pod, known or not.
func (x *index) delete(uid string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(x.hashUID(uid))
}

func (x *index) remove(uid uint64) {
	ref, found := uint32(0), false
	x.byUID.each(uid, func(r uint32) bool {
		ref, found = r, x.claim(r).uid == uid
		return !found
	})
	if !found {
		return
	}
	c := x.claim(ref)
	x.byUID.remove(ref)
	for i, addr := range c.addrs {
		if addr != ([16]byte{}) {
			x.byAddr.remove(2*ref + uint32(i))
		}
	}
	x.scopes.release(c.scope)
	*c = claim{}
	x.free = append(x.free, ref)
}

// take returns a claim that is not in use.
func (x *index) take() uint32 {
	if n := len(x.free); n > 0 {
		ref := x.free[n-1]
		x.free = x.free[:n-1]
		return ref
	}
	if x.used%chunkSize == 0 {
		x.chunks = append(x.chunks, make([]claim, chunkSize))
	}
	x.used++
	return x.used - 1
}

// scope returns how the client at an address searches, unless no pod or more than one claims it, or the claim has
// yet to begin.
func (x *index) scope(addr netip.Addr, now time.Time) (autopath.Scope, bool) {
	key := addr.As16()
	x.mu.RLock()
	defer x.mu.RUnlock()
	var found *claim
	claims := 0
	x.byAddr.each(x.hashAddr(key), func(ref uint32) bool {
		if c := x.claim(ref / 2); c.addrs[ref%2] == key {
			found = c
			claims++
		}
		return claims < 2
	})
	if claims != 1 || now.Unix() < int64(found.since) {
		return autopath.Scope{}, false
	}
	return x.scopes.all[found.scope].scope, true
}

// pods returns how many claim an address.
func (x *index) pods() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byUID.count
}
