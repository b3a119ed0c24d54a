package service

import "maps"

// Records says which Service port, or host port, has which record. Those that an earlier agent left and nobody has claimed
// yet are missing.
func (r *Reconciler) Records() map[uint32]PortID {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[uint32]PortID{}
	if r.table == nil {
		return names
	}
	for id, record := range maps.All(r.table.records) {
		names[record] = id
	}
	return names
}
