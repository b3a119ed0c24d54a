package externaldns

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nearpath/nearpath/bench/measure"
)

// A large cluster.
const (
	largePods     = 50_000
	largeServices = 10_000
)

// memory measures a syncer of a large cluster, all of its process.
func (b *bed) memory() measure.Series {
	s := measure.Series{
		Name: "memory", Rounds: 1,
		What: fmt.Sprintf("a syncer of %d pods and %d Services, of which the Services ask for a name each, as the kernel counts its pages: 30 s after everything was as it shall be (VmRSS), and at its largest (VmHWM)", largePods, largeServices),
		Metrics: []measure.Metric{
			{Name: "resident", What: "resident", Unit: "MiB"},
			{Name: "peak", What: "at its largest", Unit: "MiB"},
		},
	}
	for _, p := range []program{nearpath{}, externalDNS{}} {
		s.Cases = append(s.Cases, measure.Case{Name: p.name(), Role: p.role(), Round: func(ctx context.Context) (measure.Samples, error) { return b.remember(ctx, p) }})
	}
	return s
}

func (b *bed) remember(ctx context.Context, p program) (samples measure.Samples, err error) {
	c, err := b.newContender(p, p.name()+"-large")
	if c != nil {
		defer func() { err = errors.Join(err, c.close()) }()
	}
	if err != nil {
		return nil, err
	}
	for range largeServices {
		name, address := c.service()
		if err := errors.Join(c.api.Put(serviceOf(name, address)), c.own(c.site, name, address)); err != nil {
			return nil, err
		}
	}
	for i := range largePods {
		if err := c.api.Put(podOf(i)); err != nil {
			return nil, err
		}
	}
	if err := c.run([]string{"service", "pod"}); err != nil {
		return nil, err
	}
	if err := c.quiet(ctx, 0, largeServices*p.perName()/100, c.alive); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(30 * time.Second):
	}
	if n := c.since(0); n.writes() > 0 {
		return nil, fmt.Errorf("%s wrote to a zone that was as it shall be: %+v", p.name(), n)
	}
	resident, peak, err := measure.MemoryMiB(c.process.PID())
	return measure.Samples{"resident": {resident}, "peak": {peak}}, err
}

// podOf is as large as pods are.
func podOf(i int) *corev1.Pod {
	app := fmt.Sprintf("app-%d", i/10)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i/500), Name: fmt.Sprintf("%s-6d4cf56db6-%05d", app, i), UID: types.UID(fmt.Sprintf("0b1c5c1e-7b5e-4b9a-9d7e-%012d", i)),
			CreationTimestamp: metav1.Unix(1700000000, 0),
			Labels: map[string]string{
				"app.kubernetes.io/name": app, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.2.3", "pod-template-hash": "6d4cf56db6", "team": strconv.Itoa(i / 500),
			},
			Annotations:   map[string]string{"checksum/config": fmt.Sprintf("%064d", i), "prometheus.io/scrape": "true"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:status":{"x":"` + strings.Repeat("f:conditions", 100) + `"}}`)}}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("cn-hangzhou.192.168.%d.%d", i/25600, i/100%256),
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.example.com/shop/" + app + ":1.2.3",
				Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}, VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			}},
			Volumes: []corev1.Volume{{Name: "token"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: podAddress(i), PodIPs: []corev1.PodIP{{IP: podAddress(i)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		},
	}
}

func podAddress(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255) }
