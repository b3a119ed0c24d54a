package autopath

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/test/kubeapi"
)

// An api is a Kubernetes API whose lists of pods have pages, as a real one's have for those that ask for them: who reads 100,000
// pods at once has them all in memory.
type api struct {
	*kubeapi.Server
	pods    []json.RawMessage
	version string // after the last of them
}

// newAPI has objects, of which the last one was made last.
func newAPI(objects []runtime.Object) (*api, error) {
	a := &api{Server: kubeapi.New()}
	if err := a.Put(objects...); err != nil {
		return nil, err
	}
	last, ok := objects[len(objects)-1].(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object of an API", objects[len(objects)-1])
	}
	a.pods, a.version = a.All("Pod"), last.GetResourceVersion()
	return a, nil
}

// ServeHTTP serves the API.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit, err := strconv.Atoi(query.Get("limit"))
	if r.URL.Path != "/api/v1/pods" || query.Get("watch") != "" || err != nil || limit <= 0 {
		a.Server.ServeHTTP(w, r)
		return
	}
	from, _ := strconv.Atoi(query.Get("continue")) // none is the beginning
	page, next := pageOf(a.pods, from, limit)
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":%q,"continue":%q},"items":[`, a.version, next)
	for i, pod := range page {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		_, _ = out.Write(pod)
	}
	_, _ = out.WriteString("]}")
	_ = out.Flush() // a client that is gone needs no answer
}

// pageOf is a page of a list, and what the next one begins with; empty: it is the last.
func pageOf(all []json.RawMessage, from, limit int) (page []json.RawMessage, next string) {
	from = min(max(from, 0), len(all))
	end := min(from+limit, len(all))
	if end < len(all) {
		next = strconv.Itoa(end)
	}
	return all[from:end], next
}

// podOf is as large as pods are. The first one is in the client's namespace.
func podOf(i int, address netip.Addr) *corev1.Pod {
	app, namespace := fmt.Sprintf("app-%d", i/10), fmt.Sprintf("team-%d", i/500)
	if i == 0 {
		namespace = dnslab.Namespace
	}
	ip := address.String()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: fmt.Sprintf("%s-6d4cf56db6-%05d", app, i), UID: types.UID(fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7e-%012d", i)),
			CreationTimestamp: metav1.Unix(1700000000, 0),
			Labels: map[string]string{
				"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.2.3", "pod-template-hash": "6d4cf56db6",
			},
			Annotations:   map[string]string{"checksum/config": fmt.Sprintf("%064d", i), "prometheus.io/scrape": "true"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:status":{"x":"` + strings.Repeat("f:conditions", 100) + `"}}`)}}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("cn-hangzhou.192.168.%d.%d", i/25600, i/100%256), DNSPolicy: corev1.DNSClusterFirst,
			Containers: []corev1.Container{{Name: "app", Image: "registry.example.com/shop/" + app + ":1.2.3", Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}},
			Volumes:    []corev1.Volume{{Name: "token"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, StartTime: &metav1.Time{Time: metav1.Unix(1700000000, 0).Time},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		},
	}
}

// large are a cluster's pods, of which the client is one. It has an address that no other has.
func large(n int, client netip.Addr) []runtime.Object {
	objects := basics()
	for i := 1; i < n; i++ {
		objects = append(objects, podOf(i, netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
	return append(objects, podOf(0, client))
}
