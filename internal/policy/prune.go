package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// Prune returns the Ops that take away what the last plan left: classes in between, entries that say no more than what is around
// them, and verdicts that nobody looks up. None if there is nothing. It waits for running programs, so who waits for a plan
// should not wait for this. With the error of Plan there still are Ops, as what they take away may be the room that was missing.
func (c *Compiler) Prune() ([]Op, error) {
	if c.settled() && len(c.have.leftPeers) == 0 && len(c.have.leftCIDRs) == 0 && !c.garbage && c.have.limbo == 0 {
		return nil, nil
	}
	ops := []Op{Grace{}} // nobody is under the sets from before any more
	c.have.limbo = 0
	more, err := c.Plan()
	ops = append(ops, more...)
	if c.settled() {
		ops = append(ops, c.pruneEntries()...)
	}
	ops = append(ops, Grace{}) // nobody goes by a class from before any more
	c.have.limbo = 0
	for _, key := range c.unneeded() {
		ops = append(ops, DeleteVerdict{key})
		c.have.deleteVerdict(key)
	}
	if c.have.limbo > 0 { // nobody reads the lists of these any more, and their cells are free
		ops = append(ops, Grace{})
		c.have.limbo = 0
	}
	c.garbage = !c.settled()
	return ops, err
}

// settled reports whether every address has the class that it is to have.
func (c *Compiler) settled() bool { return len(c.dirty.plan) == 0 && !c.dirty.cidrs && !c.dirty.all }

// pruneEntries deletes entries of addresses and networks that have the class that they will have without.
func (c *Compiler) pruneEntries() (ops []Op) {
	for _, addr := range slices.SortedFunc(maps.Keys(c.have.leftPeers), netip.Addr.Compare) {
		ops = append(ops, DeletePeer{addr})
		c.have.deletePeer(addr)
	}
	if len(c.have.leftCIDRs) == 0 {
		return ops
	}
	// Short ones first: that of all IPv4 may stand between it and a network of IPv6 around it.
	short := func(a, b netip.Prefix) int { return move{prefix: b}.compare(move{prefix: a}) }
	for _, prefix := range slices.SortedFunc(maps.Keys(c.have.leftCIDRs), short) {
		ops = append(ops, DeleteCIDR{prefix})
		c.have.deleteCIDR(prefix)
	}
	c.have.reindex()
	return ops
}

// unneeded are the verdicts of sets that no pod has, and about classes that no address has.
func (c *Compiler) unneeded() (keys []VerdictKey) {
	sets, classes := map[uint64]bool{}, map[uint64]bool{0: true}
	for _, s := range c.sets {
		sets[s.id] = true
	}
	for _, pod := range c.have.pods {
		sets[pod[Ingress]], sets[pod[Egress]] = true, true
	}
	for _, cl := range c.classes {
		classes[cl.id] = true
	}
	for class := range c.have.inUse {
		classes[class] = true
	}
	for key := range c.have.verdicts {
		if !sets[key.Set] || !classes[key.Class] {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}
