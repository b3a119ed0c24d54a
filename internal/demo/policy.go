package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// onlyShoppers lets nobody but the shoppers reach stock, by the name of its port.
const onlyShoppers = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-shoppers, namespace: shop}
spec:
  podSelector: {matchLabels: {app: stock}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: shopper}}}]
      ports: [{port: http}]
`

// isolate restricts who reaches a pod, and lifts that again. Its selectors are about pods, whose objects the API would have.
func (d *demo) isolate(ctx context.Context) error {
	objects, err := podObjects(d.pods)
	if err != nil {
		return err
	}
	const file = "policy.yaml"
	began := time.Now()
	if err := d.apply(file, append(objects, onlyShoppers...)); err != nil {
		return err
	}
	denied, stock := d.find("catalog", 0), d.find("stock", 0)
	if err := d.awaitCall(ctx, denied, false); err != nil {
		return fmt.Errorf("wait for the policy: %w", err)
	}
	d.detail("NetworkPolicy only-shoppers is enforced %.1f s after its file was written: %s gets no answer of %s any more", time.Since(began).Seconds(), denied.name, stock.name)
	for i := range d.nodes {
		shopper := d.find("shopper", i)
		if err := d.awaitCall(ctx, shopper, true); err != nil {
			return fmt.Errorf("call what the policy allows: %w", err)
		}
		d.detail("%s on %s does", shopper.name, shopper.node.name)
	}
	if err := d.explainPolicy(ctx, stock, denied); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.manifests(), file)); err != nil {
		return err
	}
	if err := d.awaitCall(ctx, denied, true); err != nil {
		return fmt.Errorf("wait for the end of the policy: %w", err)
	}
	d.detail("the policy is deleted, and %s gets answers again", denied.name)
	return nil
}

// awaitCall waits until a pod's call to stock succeeds, or fails.
func (d *demo) awaitCall(ctx context.Context, from *pod, succeeds bool) error {
	var last error
	err := await(ctx, func() bool {
		_, last = from.exec(ctx, "get", "http://stock.shop.svc.cluster.local./", "--timeout", "300ms")
		return (last == nil) == succeeds
	})
	return errors.Join(err, unless(succeeds, last))
}

// unless drops an error that was wanted.
func unless(want bool, err error) error {
	if want {
		return err
	}
	return nil
}

// explainPolicy has the agent of the pod's node say why.
func (d *demo) explainPolicy(ctx context.Context, to, from *pod) error {
	n := to.node
	out, err := n.Command(ctx, filepath.Join(n.bin, "nearpath"), "explain", "policy", from.namespace+"/"+from.name, to.namespace+"/"+to.name, "8080").CombinedOutput()
	if err != nil {
		return fmt.Errorf("explain the policy on %s: %w: %s", n.name, err, out)
	}
	for line := range strings.Lines(string(out)) {
		d.detail("  %s", strings.TrimRight(line, "\n"))
	}
	return nil
}

// podObjects are the pods as the API shows them.
func podObjects(pods []*pod) ([]byte, error) {
	var out bytes.Buffer
	for _, p := range pods {
		object := corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: p.namespace, Labels: p.template.Labels, Annotations: p.template.Annotations},
			Spec:       *p.template.Spec.DeepCopy(),
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.addr.String(), PodIPs: podIPs(p.addrs)},
		}
		object.Spec.NodeName = p.node.name
		text, err := yaml.Marshal(object)
		if err != nil {
			return nil, err
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	return out.Bytes(), nil
}

func podIPs(addrs []netip.Addr) (ips []corev1.PodIP) {
	for _, a := range addrs {
		ips = append(ips, corev1.PodIP{IP: a.String()})
	}
	return ips
}

// apply writes a manifest whole. The agents read *.yaml only, so the temporary name is never taken for one.
func (d *demo) apply(file string, text []byte) error {
	temporary := filepath.Join(d.manifests(), ".draft")
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(d.manifests(), file))
}
