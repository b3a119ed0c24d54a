package cni

import "sync"

// podLinks are the indices of the node's links that lead to pods. Verbs keep them beside the Collector, whose look may be
// older than what a verb has done. The zero value knows nothing. It is safe for concurrent use.
type podLinks struct {
	mu      sync.Mutex // guards what follows
	known   bool
	changes uint64
	indices map[int]bool
}

// has says whether a link leads to a pod; before the first look all may.
func (p *podLinks) has(index int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.known || p.indices[index]
}

// set is for one link that a verb has made or is about to delete.
func (p *podLinks) set(index int, leads bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes++
	if p.indices == nil {
		p.indices = map[int]bool{}
	}
	p.indices[index] = leads
}

// look begins a look; replace takes what it found unless a verb has changed something since, which the look may have missed.
func (p *podLinks) look() (changes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changes
}

func (p *podLinks) replace(changes uint64, indices map[int]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changes == changes {
		p.known, p.indices = true, indices
	}
}

// linksOf are the indices of the node's links that lead to pods.
func linksOf(known []attached, state hostState) map[int]bool {
	indices := make(map[int]bool, len(known))
	for _, a := range known {
		if l, there := state.links[a.wiring.hostLink()]; there {
			indices[l.index] = true
		}
	}
	return indices
}
