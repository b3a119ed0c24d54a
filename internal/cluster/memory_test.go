package cluster

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func heapBytes() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// largePod is pod i of 50,000 as an API server gives it: of a Deployment of ten, every fifth one of a StatefulSet.
func largePod(i int) *corev1.Pod {
	set := fmt.Sprintf("app-%d", i/10)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i/500), Name: fmt.Sprintf("%s-6d4cf56db6-%05d", set, i), UID: types.UID(fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7e-%012d", i)),
			ResourceVersion: fmt.Sprint(i), CreationTimestamp: metav1.Unix(1700000000, 0),
			Labels: map[string]string{
				"app.kubernetes.io/name": set, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.2.3", "pod-template-hash": "6d4cf56db6", "team": fmt.Sprint(i / 500),
			},
			Annotations:   map[string]string{"checksum/config": fmt.Sprintf("%064d", i), "prometheus.io/scrape": "true"},
			ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{Raw: make([]byte, 2000)}}},
		},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("cn-hangzhou.192.168.%d.%d", i/25600, i/100%256), Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if i%5 == 0 {
		pod.Labels["statefulset.kubernetes.io/pod-name"] = pod.Name
	}
	return pod
}

func largeService(i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i/100), Name: fmt.Sprintf("app-%d", i), UID: types.UID(fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7f-%012d", i)),
			Labels:      map[string]string{"app.kubernetes.io/name": fmt.Sprintf("app-%d", i), "team": fmt.Sprint(i / 100)},
			Annotations: map[string]string{"external-dns.kubernetes.io/internal-hostname": fmt.Sprintf("app-%d.corp.example.com", i)},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{fmt.Sprintf("172.16.%d.%d", i>>8, i&255)},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9090}},
		},
	}
}

func largeSlice(i int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i/100), Name: fmt.Sprintf("app-%d-abcde", i), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("app-%d", i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for j := range 5 {
		pod := largePod(i*5 + j)
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{pod.Status.PodIPs[0].IP}, NodeName: &pod.Spec.NodeName, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: pod.Name},
		})
	}
	return slice
}

// resident is the memory of this process as the kernel counts it.
func resident(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// A syncer shall hold 50,000 pods and 10,000 Services within 150 MiB, all of its process: the heap may take half of that
// at the most, as the collector lets it double between two runs.
func TestMemoryOfALargeCluster(t *testing.T) {
	const pods, services = 50_000, 10_000
	const limit = 60 << 20
	source, err := newAPISource(nil, nil, APIConfig{Publish: everyKind, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	store := NewNameStore()
	put := func(object any) {
		out, err := source.strip(object)
		if err != nil {
			t.Fatal(err)
		}
		o := out.(*stripped)
		if o.err != nil {
			t.Fatal(o.err)
		}
		store.Update(o.put)
	}
	start := heapBytes()
	for i := range pods {
		put(largePod(i))
	}
	withPods := heapBytes()
	for i := range services {
		put(largeService(i))
		put(largeSlice(i))
	}
	all := heapBytes()
	t.Logf("%d pods: %d bytes each; %d Services with their slices of 5 endpoints: %d bytes each; in all %.1f MiB; the process has %s",
		pods, (withPods-start)/pods, services, (all-withPods)/services, float64(all-start)/(1<<20), resident(t))
	if all-start > limit {
		t.Errorf("%d bytes of heap, want at most %d", all-start, limit)
	}
	runtime.KeepAlive(store)
	runtime.KeepAlive(source)
}

// TestMemoryOfPolicyPods: what an agent keeps of 10,000 pods of other nodes for policies is at most 5.5 MB.
func TestMemoryOfPolicyPods(t *testing.T) {
	const pods, limit = 10_000, 5_500_000
	source, err := newAPISource(nil, nil, APIConfig{NodeName: testNode, Policy: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	store := NewStore()
	strip := source.stripper(&watched{convert: source.convertPolicyPod})
	start := heapBytes()
	for i := range pods {
		in := largePod(i)
		in.Spec.ServiceAccountName = "default"
		in.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}}
		out, err := strip(in)
		if err != nil {
			t.Fatal(err)
		}
		store.Update(out.(*stripped).put)
	}
	used := heapBytes() - start
	t.Logf("%d pods of other nodes: %d bytes each", pods, used/pods)
	if used > limit {
		t.Errorf("%d bytes of heap, want at most %d", used, limit)
	}
	if n := store.Snapshot().count(PolicyPods); n != pods {
		t.Errorf("%d pods are kept, want %d", n, pods)
	}
	runtime.KeepAlive(source)
}
