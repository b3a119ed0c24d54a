package autopath

import (
	"fmt"
	"strconv"

	"github.com/nearpath/nearpath/autopath"
)

// scopes holds each Scope once for all pods that have it: usually one per namespace.
type scopes struct {
	cluster autopath.Cluster
	byKey   map[string]uint32
	all     []sharedScope
	free    []uint32
}

type sharedScope struct {
	key   string
	scope autopath.Scope
	pods  int
}

func (s *scopes) acquire(p pod) (uint32, error) {
	key := p.namespace
	if own := p.search; own.None || own.Ndots >= 0 || len(own.Search) > 0 {
		key = fmt.Sprintf("%s %t %s %q", p.namespace, own.None, strconv.Itoa(own.Ndots), own.Search)
	}
	if ref, ok := s.byKey[key]; ok {
		s.all[ref].pods++
		return ref, nil
	}
	scope, err := s.cluster.Scope(p.namespace, p.search)
	if err != nil {
		return 0, fmt.Errorf("pod of namespace %s: dnsConfig: %w", p.namespace, err)
	}
	ref := uint32(len(s.all))
	if n := len(s.free); n > 0 {
		ref, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.all = append(s.all, sharedScope{})
	}
	s.all[ref] = sharedScope{key, scope, 1}
	s.byKey[key] = ref
	return ref, nil
}

func (s *scopes) release(ref uint32) {
	if s.all[ref].pods--; s.all[ref].pods > 0 {
		return
	}
	delete(s.byKey, s.all[ref].key)
	s.all[ref] = sharedScope{}
	s.free = append(s.free, ref)
}
