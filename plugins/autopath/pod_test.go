package autopath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/plugins/autopath/autopathtest"
)

var podStart = autopathtest.Start()

func running(uid, namespace string, addrs ...string) *corev1.Pod {
	return autopathtest.Running(uid, namespace, addrs...)
}

func TestPodFrom(t *testing.T) {
	t.Parallel()
	terminated := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	now := metav1.NewTime(podStart.Add(time.Minute))
	both := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	plain := pod{uid: "a", namespace: "shop", addrs: both, since: podStart.Add(settle), search: autopath.Own{Ndots: -1}}
	searching := func(s autopath.Own) pod { p := plain; p.search = s; return p }
	none := pod{uid: "a", namespace: "shop"}
	value := func(s string) *string { return &s }
	for name, tt := range map[string]struct {
		change func(*corev1.Pod)
		want   pod
	}{
		"running":             {func(*corev1.Pod) {}, plain},
		"ClusterFirst":        {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSClusterFirst }, plain},
		"for the host's, too": {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSClusterFirstWithHostNet }, plain},
		"host network":        {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, none},
		"host network, cluster DNS": {func(p *corev1.Pod) {
			p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet
		}, none},
		"the node's DNS":        {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }, none},
		"Windows":               {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, none},
		"Windows by selector":   {func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "windows"} }, none},
		"being deleted":         {func(p *corev1.Pod) { p.DeletionTimestamp = &now }, none},
		"succeeded":             {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, none},
		"failed":                {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, none},
		"containers have ended": {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State = terminated }, none},
		"a sidecar runs": {func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = p.Status.ContainerStatuses
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: terminated}}
		}, plain},
		"initialising": {func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: terminated}}
			p.Status.ContainerStatuses[0].State = waiting
		}, plain},
		"no status of containers": {func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }, plain},
		"one address": {func(p *corev1.Pod) { p.Status.PodIPs = nil }, func() pod {
			p := plain
			p.addrs = both[:1]
			return p
		}()},
		"bad address": {func(p *corev1.Pod) { p.Status.PodIPs[1].IP = "x" }, func() pod {
			p := plain
			p.addrs = nil
			return p
		}()},
		"network later than start": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: now,
			}}
		}, func() pod {
			p := plain
			p.since = now.Add(settle)
			return p
		}()},
		"own DNS": {func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"own.test"}}
		}, searching(autopath.Own{None: true, Search: []string{"own.test"}, Ndots: -1})},
		"own options": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "edns0"}, {Name: "ndots", Value: value("2")}}}
		}, searching(autopath.Own{Ndots: 2})},
		"ndots without value": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots"}}}
		}, searching(autopath.Own{Ndots: 0})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := running("a", "shop", "10.0.0.1", "fd00::1")
			tt.change(in)
			diff := cmp.Diff(tt.want, podFrom(in), cmp.AllowUnexported(pod{}, autopath.Own{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
			if diff != "" {
				t.Error(diff)
			}
		})
	}
}
