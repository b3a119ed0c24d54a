package cluster

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Meta is what every object has that names are published for.
type Meta struct {
	Name    Name // a Node has no namespace
	UID     string
	Created time.Time
	Labels  map[string]string
	// Annotations are those of external-dns, under either of its prefixes, and of nearpath.io.
	Annotations map[string]string
}

func (m *Meta) name() Name { return m.Name }

func (m *Meta) equal(o *Meta) bool {
	return m.Name == o.Name && m.UID == o.UID && m.Created.Equal(o.Created) &&
		maps.Equal(m.Labels, o.Labels) && maps.Equal(m.Annotations, o.Annotations)
}

func metaFrom(in metav1.Object) Meta {
	return Meta{
		Name:        Name{intern(in.GetNamespace()), in.GetName()},
		UID:         string(in.GetUID()),
		Created:     in.GetCreationTimestamp().Time,
		Labels:      internMap(in.GetLabels(), func(string) bool { return true }),
		Annotations: publishedAnnotations(in.GetAnnotations()),
	}
}

// publishedAnnotations copies those that publishing reads. Their values are names, which no two objects share.
func publishedAnnotations(in map[string]string) map[string]string {
	var out map[string]string
	for key, value := range in {
		if !isPublished(key) {
			continue
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[intern(key)] = value
	}
	return out
}

// isPublished reports whether publishing reads the annotation. external-dns has changed its prefix, and objects have
// either.
func isPublished(annotation string) bool {
	return strings.HasPrefix(annotation, "external-dns.alpha.kubernetes.io/") ||
		strings.HasPrefix(annotation, "external-dns.kubernetes.io/") || strings.HasPrefix(annotation, "nearpath.io/")
}

// A LoadBalancer is where an object is reached from outside, as its status says.
type LoadBalancer struct {
	Addrs     []netip.Addr // never v4-mapped
	Hostnames []string
}

func (l *LoadBalancer) equal(o *LoadBalancer) bool {
	return slices.Equal(l.Addrs, o.Addrs) && slices.Equal(l.Hostnames, o.Hostnames)
}

// add takes the entry i of status.loadBalancer.ingress, which may have both.
func (l *LoadBalancer) add(i int, ip, hostname string) error {
	if ip != "" {
		addr, err := parseAddr(ip)
		if err != nil {
			return fmt.Errorf("status.loadBalancer.ingress[%d].ip: %w", i, err)
		}
		l.Addrs = append(l.Addrs, addr)
	}
	if hostname != "" {
		l.Hostnames = append(l.Hostnames, hostname)
	}
	return nil
}

// A published object is one that a Snapshot keeps by its name and finds by nothing else.
type published[T any] interface {
	comparable
	name() Name
	equal(T) bool
}

func putObject[T published[T]](e *Edit, in *cowMap[Name, T], kind Kind, o T) {
	if old, ok := in.get(o.name()); ok && old.equal(o) {
		return
	}
	*in = in.put(o.name(), o)
	e.touch(kind, o.name())
}

func deleteObject[T published[T]](e *Edit, in *cowMap[Name, T], kind Kind, name Name) {
	if _, ok := in.get(name); !ok {
		return
	}
	*in = in.delete(name)
	e.touch(kind, name)
}

func values[K comparable, V any](m cowMap[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m.all() {
			if !yield(v) {
				return
			}
		}
	}
}

func keys[K comparable, V any](m cowMap[K, V]) iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range m.all() {
			if !yield(k) {
				return
			}
		}
	}
}
