//go:build cluster

package e2e

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nearpath/nearpath/test/kube"
)

//go:embed testdata/policies.yaml
var policiesYAML string

// onlyFriends is a policy of the namespace vault.
const onlyFriends = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-friends, namespace: vault}
spec:
  podSelector: {matchLabels: {app: door}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: http}]}]
`

// checkPolicies has a policy come and go by the API, between pods of two nodes.
func (r *rig) checkPolicies(t *testing.T) {
	t.Helper()
	before := time.Now()
	r.Apply(t, policiesYAML)
	r.WaitReady(t, "vault/door", "vault/friend", "vault/other")
	open := time.Since(before)
	var svc struct{ Spec struct{ ClusterIP string } }
	r.Get(t, "service/vault/door", &svc)
	doors := []string{r.Pod(t, "vault/door").Status.PodIP + ":8080", "door.vault.svc.cluster.local", svc.Spec.ClusterIP}
	everybody := map[string]bool{"friend": true, "other": true}
	r.enters(t, "without a policy", everybody, doors)

	r.Apply(t, onlyFriends)
	r.enters(t, "by the policy", map[string]bool{"friend": true, "other": false}, doors)
	r.explains(t)

	// Whoever comes while there is a policy has it from his first packet on, and is not late.
	r.Kubectl(t, "delete", "pod", "-n", "vault", "friend", "door", "--wait")
	before = time.Now()
	r.Apply(t, policiesYAML)
	r.WaitReady(t, "vault/door", "vault/friend")
	t.Logf("three pods were ready after %s without a policy, two after %s with one", open.Round(time.Millisecond), time.Since(before).Round(time.Millisecond))
	doors[0] = r.Pod(t, "vault/door").Status.PodIP + ":8080"
	r.enters(t, "by the policy, to pods that came later", map[string]bool{"friend": true, "other": false}, doors)
	for _, n := range r.Nodes() {
		t.Logf("the agent of %s has %d MiB resident; what is budgeted, for a cluster of 10,000 Services and 10,000 pods, is 143", n.Name(), r.resident(t, n)>>20)
	}

	r.Kubectl(t, "delete", "networkpolicy", "-n", "vault", "only-friends")
	r.enters(t, "after the policy", everybody, doors)
	r.Kubectl(t, "delete", "namespace", "vault", "--wait")
}

// enters waits until it is as wanted at every door, asked from every pod.
func (r *rig) enters(t *testing.T, when string, want map[string]bool, doors []string) {
	t.Helper()
	for pod, may := range want {
		for _, door := range doors {
			// One who is let in may take his time; the others are dropped, and a short time says that as well as a long one.
			timeout := "500ms"
			if may {
				timeout = "5s"
			}
			r.Wait(t, fmt.Sprintf("%s, %s entering %s: %t", when, pod, door, may), func(ctx context.Context) error {
				_, err := r.TryExec(ctx, "vault/"+pod, "/podapp", "get", "http://"+door+"/", "--timeout", timeout)
				if may || err == nil {
					if (err == nil) != may {
						return errors.Join(errors.New("it is not so"), err)
					}
					return nil
				}
				if !strings.Contains(err.Error(), "terminated with exit code 1") {
					return err // of kubectl, and not of the request
				}
				return nil
			})
		}
	}
}

// explains compares what the verb says on the node of the door.
func (r *rig) explains(t *testing.T) {
	t.Helper()
	n2 := r.Node(t, "n2")
	for from, allowed := range map[string]bool{"vault/friend": true, "vault/other": false} {
		r.Wait(t, "policies to be explained", func(ctx context.Context) error {
			out, err := n2.Command(ctx, filepath.Join(r.bin, "nearpath"), "explain", "policy", from, "vault/door", "8080", "-o", "json").CombinedOutput()
			var a struct {
				Allowed bool
				Ingress struct{ Kernel struct{ Allowed bool } }
			}
			if err == nil {
				err = json.Unmarshal(out, &a)
			}
			if err != nil || a.Allowed != allowed || a.Ingress.Kernel.Allowed != allowed {
				return fmt.Errorf("%s: %w: %s", from, err, out)
			}
			return nil
		})
	}
}

// resident is how many bytes of memory the agent of a node has.
func (r *rig) resident(t *testing.T, n *kube.Node) (bytes int) {
	t.Helper()
	text, err := n.Command(t.Context(), "sh", "-c", "cat /proc/$(cat /run/nearpath/agent.lock)/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes << 10
}
