package autopath

import (
	"slices"
	"strings"
)

// The limits to which kubelet cuts search lists: MaxDNSSearchPaths is maxSearch, and MaxDNSSearchListChars of Kubernetes.
const maxSearchText = 2048

// A Cluster is what kubelet gives to pods of dnsPolicy ClusterFirst.
type Cluster struct {
	Domain string   // kubelet's clusterDomain, without final dot
	Host   []string // what the node's resolv.conf searches
	Ndots  int
}

// An Own is what a pod has of its own: dnsConfig, and whether dnsPolicy is None.
type Own struct {
	None   bool
	Search []string
	Ndots  int // -1 for the default
}

// Scope is that of a pod of dnsPolicy ClusterFirst or None. Errors are those of NewScope.
func (c Cluster) Scope(namespace string, own Own) (Scope, error) {
	search, ndots := c.list(namespace, own)
	return NewScope(search, ndots, c.Domain)
}

// list is the search list of a pod's resolv.conf: kubelet appends the pod's own domains to those of the cluster, leaves out
// what is there already, and cuts.
func (c Cluster) list(namespace string, own Own) (search []string, ndots int) {
	ndots = 1 // resolv.conf(5)
	var all []string
	if !own.None {
		svc := "svc." + c.Domain
		all = append(all, namespace+"."+svc, svc, c.Domain)
		all = append(all, c.Host...)
		ndots = c.Ndots
	}
	for _, domain := range append(all, own.Search...) {
		if !slices.Contains(search, domain) {
			search = append(search, domain)
		}
	}
	if own.Ndots >= 0 {
		ndots = own.Ndots
	}
	search = search[:min(len(search), maxSearch)]
	for len(strings.Join(search, " ")) > maxSearchText {
		search = search[:len(search)-1]
	}
	return search, ndots
}
