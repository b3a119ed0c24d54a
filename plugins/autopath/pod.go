package autopath

import (
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/nearpath/nearpath/autopath"
)

// settle is how much later than the pod has its address we begin to search for it: every replica of CoreDNS should know the pod
// by then. One that searches beside one that does not gives a client A and AAAA of different names.
const settle = 5 * time.Second

// A pod is what the index takes from one.
type pod struct {
	uid, namespace string
	addrs          []netip.Addr // at most one per family; none: it claims nothing
	since          time.Time
	search         autopath.Own
}

// podFrom reads a pod of the API. One whose questions do not come from its own addresses, do not come to the cluster's
// DNS, or come from a resolver we know nothing of, claims nothing; neither does one that has ended or is about to: its
// address may be another's before we hear of it.
func podFrom(in *corev1.Pod) pod {
	p := pod{uid: string(in.UID), namespace: in.Namespace}
	if in.Spec.HostNetwork || in.Spec.DNSPolicy == corev1.DNSDefault || windows(in) || ended(in) {
		return p
	}
	p.addrs = podAddrs(in.Status)
	p.since = begins(in).Add(settle)
	p.search = autopath.Own{None: in.Spec.DNSPolicy == corev1.DNSNone, Ndots: -1}
	if c := in.Spec.DNSConfig; c != nil {
		for _, domain := range c.Searches {
			p.search.Search = append(p.search.Search, strings.Clone(domain))
		}
		for _, option := range c.Options {
			if option.Name == "ndots" {
				p.search.Ndots = autopath.ParseNdots(ptr.Deref(option.Value, ""))
			}
		}
	}
	return p
}

// windows resolvers search in a way of their own.
func windows(in *corev1.Pod) bool {
	return in.Spec.OS != nil && in.Spec.OS.Name == corev1.Windows || in.Spec.NodeSelector[corev1.LabelOSStable] == "windows"
}

// ended is whether nothing in the pod will ask any more, or soon will not: kubelet gives addresses back before the API
// shows the end of a pod that ran to completion, so the end of its containers counts.
func ended(in *corev1.Pod) bool {
	if in.DeletionTimestamp != nil || in.Status.Phase == corev1.PodSucceeded || in.Status.Phase == corev1.PodFailed {
		return true
	}
	if len(in.Status.ContainerStatuses) == 0 {
		return false
	}
	for _, all := range [][]corev1.ContainerStatus{
		in.Status.ContainerStatuses, in.Status.InitContainerStatuses, in.Status.EphemeralContainerStatuses,
	} {
		for i := range all {
			if all[i].State.Terminated == nil {
				return false
			}
		}
	}
	return true
}

func podAddrs(s corev1.PodStatus) []netip.Addr {
	texts := make([]string, 0, 2)
	for _, ip := range s.PodIPs {
		texts = append(texts, ip.IP)
	}
	if len(texts) == 0 && s.PodIP != "" {
		texts = append(texts, s.PodIP)
	}
	var addrs []netip.Addr
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil || len(addrs) == 2 {
			return nil // nothing that the API server would store
		}
		addrs = append(addrs, addr.Unmap().WithZone(""))
	}
	return addrs
}

// begins is when the pod had its network, by the clocks that every replica sees: the API's, not when we heard of it.
func begins(in *corev1.Pod) time.Time {
	var at time.Time
	if in.Status.StartTime != nil {
		at = in.Status.StartTime.Time
	}
	for _, c := range in.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(at) {
			at = c.LastTransitionTime.Time
		}
	}
	return at
}
