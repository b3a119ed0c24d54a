package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Wait asks check until it returns nil; after Patience the test fails with what check said last.
func (c *Cluster) Wait(tb testing.TB, what string, check func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), Patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("waited %s for %s: %v", Patience, what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// WaitReady waits until each object is ready: a pod or node has the condition Ready, a Deployment, DaemonSet or
// StatefulSet has rolled out, anything else exists. An object is named "namespace/name" when it is a pod, "node/name",
// or "kind/namespace/name" with the kind in lower case, such as "daemonset/kube-system/nearpath".
func (c *Cluster) WaitReady(tb testing.TB, refs ...string) {
	tb.Helper()
	for _, name := range refs {
		r, err := parseRef(name)
		if err != nil {
			tb.Fatal(err)
		}
		c.Wait(tb, name+" to be ready", func(ctx context.Context) error {
			body, err := c.api.get(ctx, r.path())
			if err != nil {
				return err
			}
			return readiness(r.kind, body)
		})
	}
}

// WaitNodes waits until every node of the cluster is Ready.
func (c *Cluster) WaitNodes(tb testing.TB) {
	tb.Helper()
	for _, n := range c.nodes {
		c.WaitReady(tb, "node/"+n.Name())
	}
}

// WaitGone waits until an object does not exist.
func (c *Cluster) WaitGone(tb testing.TB, name string) {
	tb.Helper()
	c.Wait(tb, name+" to be gone", func(ctx context.Context) error {
		err := c.TryGet(ctx, name, new(struct{}))
		switch {
		case errors.Is(err, errNotFound):
			return nil
		case err == nil:
			return errors.New("it exists")
		default:
			return err
		}
	})
}

// Pod reads a pod.
func (c *Cluster) Pod(tb testing.TB, pod string) corev1.Pod {
	tb.Helper()
	var p corev1.Pod
	c.Get(tb, pod, &p)
	return p
}

// readiness says what keeps the object in body from being ready.
func readiness(kind string, body []byte) error {
	switch kind {
	case "pod":
		return podReadiness(body)
	case "node":
		return nodeReadiness(body)
	case "deployment", "statefulset", "daemonset":
		return rollout(body)
	default:
		return nil
	}
}

func podReadiness(body []byte) error {
	var p corev1.Pod
	if err := json.Unmarshal(body, &p); err != nil {
		return err
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			return nil
		}
	}
	err := fmt.Errorf("pod is %s on node %q", p.Status.Phase, p.Spec.NodeName)
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if w := s.State.Waiting; w != nil {
			err = fmt.Errorf("%w, container %s: %s %s", err, s.Name, w.Reason, w.Message)
		}
	}
	return err
}

func nodeReadiness(body []byte) error {
	var n corev1.Node
	if err := json.Unmarshal(body, &n); err != nil {
		return err
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type != corev1.NodeReady {
			continue
		}
		if cond.Status == corev1.ConditionTrue {
			return nil
		}
		return fmt.Errorf("node is not ready: %s", cond.Message)
	}
	return errors.New("node has not reported yet")
}

// rollout reads the fields that Deployments, StatefulSets and DaemonSets say in different words.
func rollout(body []byte) error {
	var o struct {
		Metadata struct{ Generation int64 }
		Spec     struct{ Replicas *int }
		Status   struct {
			ObservedGeneration                       int64
			UpdatedReplicas, ReadyReplicas, Replicas int
			DesiredNumberScheduled                   int
			UpdatedNumberScheduled, NumberReady      int
		}
	}
	if err := json.Unmarshal(body, &o); err != nil {
		return err
	}
	want, updated, ready := o.Status.DesiredNumberScheduled, o.Status.UpdatedNumberScheduled, o.Status.NumberReady
	if o.Spec.Replicas != nil {
		want, updated, ready = *o.Spec.Replicas, o.Status.UpdatedReplicas, o.Status.ReadyReplicas
	}
	switch {
	case o.Status.ObservedGeneration < o.Metadata.Generation:
		return errors.New("the latest change was not looked at yet")
	case updated < want || ready < want || o.Status.Replicas > want:
		return fmt.Errorf("%d pods wanted, %d up to date, %d ready", want, updated, ready)
	}
	return nil
}
