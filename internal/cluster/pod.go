package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// A Pod is the part of a v1.Pod of this node that the node acts on, or, for publishing, of any pod. It is immutable once
// it is in a Snapshot, its maps included.
type Pod struct {
	Name    Name
	UID     string
	Node    string // empty in a manifest that does not say
	Created time.Time
	// Addrs is what the API has learned from the kubelet, after the fact: IPv4 first, never v4-mapped, empty for a
	// pod that is still on its way.
	Addrs       []netip.Addr
	HostNetwork bool
	Owner       Owner // not read for publishing
	Labels      map[string]string
	// Annotations are those that nearpath reads: of k8s.aliyun.com and nearpath.io, and of kubernetes.io the two for
	// bandwidth and that of mirrors; for publishing, those of Meta.
	Annotations map[string]string
	// RuntimeClass is spec.runtimeClassName, empty for the node's default; not read for publishing.
	RuntimeClass string
	// Containers are the names of all containers but ephemeral ones, those of init containers first; not read for publishing.
	Containers []string
	// NetAdmin says that a container may change the network it is in: it is privileged or has the capability
	// NET_ADMIN. Not read for publishing.
	NetAdmin bool
	// DNS is what the pod asks of its resolver, nil for the cluster's default; not read for publishing.
	DNS   *PodDNS
	Phase PodPhase
	// Terminating says that the pod has been deleted and may still run out its grace period.
	Terminating bool
	// Ready is the condition of that name. It is read for publishing only, else false.
	Ready bool
}

// A PodDNS is dnsPolicy and what is read of dnsConfig. It is immutable.
type PodDNS struct {
	// Policy is one of "ClusterFirst", "ClusterFirstWithHostNet", "Default" and "None".
	Policy string
	Search []string
	// Ndots is the option as it is written, nil if there is none.
	Ndots *string
}

func (d *PodDNS) equal(o *PodDNS) bool {
	if d == nil || o == nil {
		return d == o
	}
	return d.Policy == o.Policy && slices.Equal(d.Search, o.Search) && ptr.Equal(d.Ndots, o.Ndots)
}

// podDNS is nil where nothing is asked for.
func podDNS(spec *corev1.PodSpec) *PodDNS {
	d := PodDNS{Policy: intern(string(cmp.Or(spec.DNSPolicy, corev1.DNSClusterFirst)))}
	if c := spec.DNSConfig; c != nil {
		d.Search = slices.Clone(c.Searches)
		for _, option := range c.Options {
			if option.Name == "ndots" {
				d.Ndots = new(ptr.Deref(option.Value, ""))
			}
		}
	}
	if d.Policy == string(corev1.DNSClusterFirst) && len(d.Search) == 0 && d.Ndots == nil {
		return nil
	}
	return &d
}

// An Owner is the controller of a pod, the zero value for none.
type Owner struct{ Kind, Name string }

// A PodPhase is status.phase. What is no phase of the API, or not set yet, is PodPending.
type PodPhase uint8

// The phases of a pod.
const (
	PodPending PodPhase = iota // has been accepted; init containers may run already
	PodRunning
	PodSucceeded
	PodFailed
	PodUnknown
)

func (p PodPhase) String() string {
	switch p {
	case PodPending:
		return string(corev1.PodPending)
	case PodRunning:
		return string(corev1.PodRunning)
	case PodSucceeded:
		return string(corev1.PodSucceeded)
	case PodFailed:
		return string(corev1.PodFailed)
	case PodUnknown:
		return string(corev1.PodUnknown)
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// Ended reports whether no container of the pod will ever run again.
func (p *Pod) Ended() bool { return p.Phase == PodSucceeded || p.Phase == PodFailed }

// hasNetwork reports whether the pod's addresses are its own and still its.
func (p *Pod) hasNetwork() bool { return !p.HostNetwork && !p.Ended() }

// succeeds reports whether the pod has an address that another claims as well.
func (p *Pod) succeeds(o *Pod) bool {
	if p.Terminating != o.Terminating {
		return o.Terminating
	}
	return p.Created.After(o.Created)
}

// PodFrom converts a pod of the API. Errors name the object and the field.
func PodFrom(in *corev1.Pod) (*Pod, error) {
	pod := &Pod{
		Name:        Name{in.Namespace, in.Name},
		UID:         string(in.UID),
		Node:        intern(in.Spec.NodeName),
		Created:     in.CreationTimestamp.Time,
		HostNetwork: in.Spec.HostNetwork,
		Labels:      internMap(in.Labels, func(string) bool { return true }),
		Annotations: internMap(in.Annotations, isRead),
		Phase:       phase(in.Status.Phase),
		Terminating: in.DeletionTimestamp != nil,
		NetAdmin:    hasNetAdmin(&in.Spec),
		Containers:  containerNames(&in.Spec),
		DNS:         podDNS(&in.Spec),
	}
	pod.RuntimeClass = intern(orEmpty(in.Spec.RuntimeClassName))
	if owner := metav1.GetControllerOfNoCopy(in); owner != nil {
		pod.Owner = Owner{intern(owner.Kind), intern(owner.Name)}
	}
	var err error
	if pod.Addrs, err = podAddrs(&in.Status); err != nil {
		return nil, fmt.Errorf("convert Pod %s: %w", pod.Name, err)
	}
	return pod, nil
}

func containerNames(spec *corev1.PodSpec) (names []string) {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			names = append(names, intern(list[i].Name))
		}
	}
	return names
}

// hasNetAdmin asks all containers, also those that run for a moment or are put in while the pod runs.
func hasNetAdmin(spec *corev1.PodSpec) bool {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if grantsNetAdmin(list[i].SecurityContext) {
				return true
			}
		}
	}
	return slices.ContainsFunc(spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool {
		return grantsNetAdmin(c.SecurityContext)
	})
}

// grantsNetAdmin reads the names of capabilities as runtimes do: containerd in any case, CRI-O with or without CAP_.
func grantsNetAdmin(c *corev1.SecurityContext) bool {
	if c == nil {
		return false
	}
	if c.Privileged != nil && *c.Privileged {
		return true
	}
	return c.Capabilities != nil && slices.ContainsFunc(c.Capabilities.Add, func(name corev1.Capability) bool {
		text := strings.TrimPrefix(strings.ToUpper(string(name)), "CAP_")
		return text == "NET_ADMIN" || text == "ALL"
	})
}

func phase(text corev1.PodPhase) PodPhase {
	for p := range PodUnknown + 1 {
		if p.String() == string(text) {
			return p
		}
	}
	return PodPending
}

// podAddrs puts IPv4 first, whichever family the cluster prefers.
func podAddrs(status *corev1.PodStatus) ([]netip.Addr, error) {
	texts := make([]string, 0, len(status.PodIPs))
	for _, ip := range status.PodIPs {
		texts = append(texts, ip.IP)
	}
	field := "status.podIPs"
	if len(texts) == 0 && status.PodIP != "" {
		field, texts = "status.podIP", []string{status.PodIP}
	}
	var addrs []netip.Addr
	for i, text := range texts {
		addr, err := parseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		addrs = append(addrs, addr)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs, nil
}

// isRead reports whether some part of nearpath reads the annotation. All of k8s.aliyun.com is kept, so that what a user
// of Terway asks for and does not get can be named.
func isRead(annotation string) bool {
	return strings.HasPrefix(annotation, "k8s.aliyun.com/") || strings.HasPrefix(annotation, "nearpath.io/") ||
		annotation == "kubernetes.io/ingress-bandwidth" || annotation == "kubernetes.io/egress-bandwidth" ||
		annotation == "kubernetes.io/config.mirror"
}

// internMap copies, so that the map it is given may go, and shares the strings: pods of a node have much in common.
func internMap(in map[string]string, wanted func(key string) bool) map[string]string {
	var out map[string]string
	for key, value := range in {
		if !wanted(key) {
			continue
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[intern(key)] = intern(value)
	}
	return out
}
