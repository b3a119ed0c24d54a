package cluster

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodFrom(t *testing.T) {
	t.Parallel()
	created := metav1.Unix(1700000000, 0)
	for name, tt := range map[string]struct {
		in      corev1.Pod
		want    Pod
		wantErr string
	}{
		"scheduled, nothing else known": {
			in:   corev1.Pod{Spec: corev1.PodSpec{NodeName: testNode}},
			want: Pod{Node: testNode, Phase: PodPending},
		},
		"everything set": {
			in: corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					CreationTimestamp: created, DeletionTimestamp: &created,
					Labels: map[string]string{"app": "cart"},
					Annotations: map[string]string{
						"k8s.aliyun.com/pod-ip-reservation": "true", "nearpath.io/x": "y", "kubernetes.io/ingress-bandwidth": "10M",
						"kubernetes.io/egress-bandwidth": "20M", "kubernetes.io/config.source": "api", "other.io/k8s.aliyun.com/": "z",
					},
					OwnerReferences: []metav1.OwnerReference{
						{Kind: "Gate", Name: "g"}, {Kind: "StatefulSet", Name: "cart", Controller: new(true)},
					},
				},
				Spec: corev1.PodSpec{
					NodeName: testNode, HostNetwork: true, RuntimeClassName: new("runv"),
					InitContainers: []corev1.Container{{Name: "istio-init"}}, Containers: []corev1.Container{{Name: "app"}, {Name: "istio-proxy"}},
				},
				Status: corev1.PodStatus{
					Phase: corev1.PodRunning, PodIP: "fd00::5", PodIPs: []corev1.PodIP{{IP: "fd00::5"}, {IP: "10.0.0.5"}},
				},
			},
			want: Pod{
				Node: testNode, Created: created.Time, HostNetwork: true, Owner: Owner{"StatefulSet", "cart"},
				Addrs:  []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")},
				Labels: map[string]string{"app": "cart"},
				Annotations: map[string]string{
					"k8s.aliyun.com/pod-ip-reservation": "true", "nearpath.io/x": "y", "kubernetes.io/ingress-bandwidth": "10M",
					"kubernetes.io/egress-bandwidth": "20M",
				},
				RuntimeClass: "runv", Containers: []string{"istio-init", "app", "istio-proxy"}, Phase: PodRunning, Terminating: true,
			},
		},
		"what is asked of the resolver": {
			in: corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
				Searches: []string{"a.test"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "rotate"}},
			}}},
			want: Pod{DNS: &PodDNS{Policy: "None", Search: []string{"a.test"}, Ndots: new("2")}},
		},
		"nothing that concerns searching": {
			in: corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{
				Options: []corev1.PodDNSConfigOption{{Name: "single-request"}},
			}}},
		},
		"podIP alone": {
			in:   corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded, PodIP: "10.0.0.5"}},
			want: Pod{Phase: PodSucceeded, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}},
		},
		"a phase of a later API": {in: corev1.Pod{Status: corev1.PodStatus{Phase: "Dreaming"}}},
		"bad address": {
			in:      corev1.Pod{Status: corev1.PodStatus{PodIP: "10.0.0"}},
			wantErr: `convert Pod shop/cart-0: status.podIP[0]: "10.0.0" is not an address`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.in.Namespace, tt.in.Name, tt.in.UID = "shop", "cart-0", "u1"
			got, err := PodFrom(&tt.in)
			if !errorHas(err, tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if tt.wantErr != "" {
				return
			}
			tt.want.Name, tt.want.UID = Name{"shop", "cart-0"}, "u1"
			if diff := cmp.Diff(&tt.want, got, compareAddrs); diff != "" || !got.equal(&tt.want) {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestPodNetAdmin(t *testing.T) {
	t.Parallel()
	adds := func(names ...corev1.Capability) *corev1.SecurityContext {
		return &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: names}}
	}
	container := func(c *corev1.SecurityContext) []corev1.Container {
		return []corev1.Container{{Name: "plain"}, {Name: "other", SecurityContext: c}}
	}
	for name, tt := range map[string]struct {
		spec corev1.PodSpec
		want bool
	}{
		"nothing asked":             {corev1.PodSpec{Containers: container(nil)}, false},
		"an empty security context": {corev1.PodSpec{Containers: container(&corev1.SecurityContext{})}, false},
		"privileged":                {corev1.PodSpec{Containers: container(&corev1.SecurityContext{Privileged: new(true)})}, true},
		"privileged, said not":      {corev1.PodSpec{Containers: container(&corev1.SecurityContext{Privileged: new(false)})}, false},
		"NET_ADMIN":                 {corev1.PodSpec{Containers: container(adds("CHOWN", "NET_ADMIN"))}, true},
		"as a kernel header spells": {corev1.PodSpec{Containers: container(adds("cap_net_admin"))}, true},
		"all":                       {corev1.PodSpec{Containers: container(adds("all"))}, true},
		"other capabilities":        {corev1.PodSpec{Containers: container(adds("NET_RAW", "SYS_ADMIN"))}, false},
		"dropped": {corev1.PodSpec{Containers: container(&corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"NET_ADMIN", "ALL"}},
		})}, false},
		"an init container": {corev1.PodSpec{Containers: container(nil), InitContainers: container(adds("NET_ADMIN"))}, true},
		"an ephemeral container": {corev1.PodSpec{Containers: container(nil), EphemeralContainers: []corev1.EphemeralContainer{
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{SecurityContext: adds("NET_ADMIN")}},
		}}, true},
		"the host's other namespaces": {corev1.PodSpec{Containers: container(nil), HostPID: true, HostIPC: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod, err := PodFrom(&corev1.Pod{Spec: tt.spec})
			if err != nil {
				t.Fatal(err)
			}
			if pod.NetAdmin != tt.want {
				t.Errorf("NetAdmin is %v, want %v", pod.NetAdmin, tt.want)
			}
			if other := (&Pod{Containers: pod.Containers, NetAdmin: !tt.want}); pod.equal(other) {
				t.Error("a change of NetAdmin, as by an ephemeral container, wakes nobody")
			}
		})
	}
}

func TestPodByIP(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("10.0.0.5")
	pod := func(name string, created int64, change func(*Pod)) *Pod {
		p := &Pod{Name: Name{"ns", name}, Addrs: []netip.Addr{addr}, Phase: PodRunning, Created: time.Unix(created, 0)}
		if change != nil {
			change(p)
		}
		return p
	}
	terminating := func(p *Pod) { p.Terminating = true }
	for name, tt := range map[string]struct {
		pods []*Pod
		want string
	}{
		"nobody":                          {},
		"a pod whose init containers run": {pods: []*Pod{pod("a", 1, func(p *Pod) { p.Phase = PodPending })}, want: "a"},
		"the host's own address":          {pods: []*Pod{pod("a", 1, func(p *Pod) { p.HostNetwork = true })}},
		"a job that has ended":            {pods: []*Pod{pod("a", 1, func(p *Pod) { p.Phase = PodSucceeded })}},
		"used again after a failed pod":   {pods: []*Pod{pod("a", 1, nil), pod("b", 2, func(p *Pod) { p.Phase = PodFailed })}, want: "a"},
		"the younger":                     {pods: []*Pod{pod("a", 2, nil), pod("b", 1, nil)}, want: "a"},
		"not the one that terminates":     {pods: []*Pod{pod("a", 1, nil), pod("b", 2, terminating)}, want: "a"},
		"terminating, and alone":          {pods: []*Pod{pod("a", 1, terminating)}, want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := NewStore()
			store.Replace(Objects{Pods: tt.pods})
			got := ""
			if owner := store.Snapshot().PodByIP(addr); owner != nil {
				got = owner.Name.Name
			}
			if got != tt.want {
				t.Errorf("%s belongs to %q, want %q", addr, got, tt.want)
			}
		})
	}
}
