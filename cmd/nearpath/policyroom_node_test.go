//go:build node

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// manyPorts is a policy that lets pods of an app reach the database at every other port: the lists of two of them have more intervals
// than the kernel's table has cells.
func manyPorts(app, protocol string) string {
	var b strings.Builder
	for port := 2; port < 1<<16; port += 2 {
		fmt.Fprintf(&b, "{port: %d, protocol: %s}, ", port, protocol)
	}
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: %s}}}], ports: [%s]}]}
`, app, strings.TrimSuffix(b.String(), ", "))
}

// TestPolicyMapsFull: a policy that the kernel's tables have no room for leaves in force what was, is told of with the table's name, and
// is enforced once there is room, which another policy gives.
func TestPolicyMapsFull(t *testing.T) {
	n := startPolicyNode(t)
	n.apply(t, "pods.yaml", policyPods+"---\n"+policyDB)
	n.apply(t, "policy.yaml", openTo("api"))
	n.startAgent(t)
	for _, pod := range []string{"api", "web", "db"} {
		must(t, n.add(t.Context(), t, pod))
	}
	traffic := n.startTraffic(t, "api", "web", "db")
	traffic.goesOn(t, "at first")

	// Of the one that takes the room nobody here hears: it is about a pod that is asked nothing.
	other := strings.NewReplacer("name: db", "name: web", "app: db", "app: web").Replace(manyPorts("api", "UDP"))
	n.apply(t, "other.yaml", other)
	n.awaitPolicyState(t, "web", policyEnforced, "")
	n.apply(t, "policy.yaml", manyPorts("web", "TCP"))
	n.awaitPolicyState(t, "db", policyRefused, "policy_ports")
	traffic.goesOn(t, "without room for the next version")
	for _, want := range []string{`NetworkPolicy shop/db`, `entries in policy_ports`, `its last version stays in force`} {
		if text := n.logged(t); !strings.Contains(text, want) {
			t.Errorf("the log, which the event's text is in, does not say %q", want)
		}
	}
	if text := n.metrics(t); !strings.Contains(text, "nearpath_policy_refused 1\n") {
		t.Error("nearpath_policy_refused is not 1")
	}
	traffic.end(t)

	n.apply(t, "other.yaml", "")
	n.awaitPolicyState(t, "db", policyEnforced, "")
	n.awaitReach(t, "web", true)
	n.awaitReach(t, "api", false)
	awaitPolicy(t, "the metric to fall", func() error {
		if !strings.Contains(n.metrics(t), "nearpath_policy_refused 0\n") {
			return errors.New("it does not")
		}
		return nil
	})
	n.agent.Kill()
}

// awaitPolicyState waits until the verb shows a policy of shop so, for such a reason.
func (n *policyNode) awaitPolicyState(t *testing.T, name, state, reason string) {
	t.Helper()
	awaitPolicy(t, fmt.Sprintf("shop/%s to be %s", name, state), func() error {
		var v policiesView
		must(t, n.api().Get(t.Context(), policiesPath, &v))
		for _, p := range v.Policies {
			if p.Name == name && p.State == state && strings.Contains(p.Reason, reason) && v.Failure == "" {
				return nil
			}
		}
		return fmt.Errorf("%s %+v", v.Failure, v.Policies)
	})
}

// metrics are the agent's.
func (n *policyNode) metrics(t *testing.T) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = n.node.NetNS().Do(func() error {
			c, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return c, err
	}}
	answer, err := (&http.Client{Transport: transport}).Get("http://127.0.0.1:9440/metrics")
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return string(text)
}
