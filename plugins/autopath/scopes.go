package autopath

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nearpath/nearpath/autopath"
)

// maxSearch and maxSearchText are the limits to which kubelet cuts search lists: MaxDNSSearchPaths and
// MaxDNSSearchListChars of Kubernetes.
const (
	maxSearch     = 32
	maxSearchText = 2048
)

// A clusterSearch is what kubelet gives to pods of dnsPolicy ClusterFirst.
type clusterSearch struct {
	domain string   // "cluster.local"
	host   []string // what the nodes' resolv.conf searches
	ndots  int
}

// A podSearch is what a pod has of its own: dnsConfig, and whether dnsPolicy is None.
type podSearch struct {
	none   bool
	search []string
	ndots  int // -1 for the default
}

// list is the search list of a pod's resolv.conf: kubelet appends the pod's own domains to those of the cluster, leaves out
// what is there already, and cuts.
func (c clusterSearch) list(namespace string, p podSearch) (search []string, ndots int) {
	ndots = 1 // resolv.conf(5)
	var all []string
	if !p.none {
		svc := "svc." + c.domain
		all = append(all, namespace+"."+svc, svc, c.domain)
		all = append(all, c.host...)
		ndots = c.ndots
	}
	for _, domain := range append(all, p.search...) {
		if !slices.Contains(search, domain) {
			search = append(search, domain)
		}
	}
	if p.ndots >= 0 {
		ndots = p.ndots
	}
	search = search[:min(len(search), maxSearch)]
	for len(strings.Join(search, " ")) > maxSearchText {
		search = search[:len(search)-1]
	}
	return search, ndots
}

// scopes holds each Scope once for all pods that have it: usually one per namespace.
type scopes struct {
	cluster clusterSearch
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
	if own := p.search; own.none || own.ndots >= 0 || len(own.search) > 0 {
		key = fmt.Sprintf("%s %t %s %q", p.namespace, own.none, strconv.Itoa(own.ndots), own.search)
	}
	if ref, ok := s.byKey[key]; ok {
		s.all[ref].pods++
		return ref, nil
	}
	search, ndots := s.cluster.list(p.namespace, p.search)
	scope, err := autopath.NewScope(search, ndots, s.cluster.domain)
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
