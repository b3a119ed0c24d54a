package interpret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/cluster"
)

const thisNode = "n1"

// nine are the pods a, b and c of the namespaces x, w and z: x/a is 10.0.1.1 and fd00::1:1. Pods a are of node n1.
func nine() string {
	var yaml strings.Builder
	for n, namespace := range []string{"x", "w", "z"} {
		fmt.Fprintf(&yaml, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {ns: %s}}\n", namespace, namespace)
		for p, pod := range []string{"a", "b", "c"} {
			fmt.Fprintf(&yaml, `---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {pod: %s}}
spec:
  nodeName: n%d
  serviceAccountName: sa-%s
  containers:
  - {name: c, image: i, ports: [{name: web, containerPort: 8%d}, {name: dns, containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIPs: [{ip: 10.0.%d.%d}, {ip: 'fd00::%d:%d'}]}
`, pod, namespace, pod, p+1, pod, p, n+1, p+1, n+1, p+1)
		}
	}
	return yaml.String()
}

// read reads manifests as the agent does.
func read(t *testing.T, yaml string) *World {
	t.Helper()
	dir, store := t.TempDir(), cluster.NewStore()
	if err := os.WriteFile(filepath.Join(dir, "m.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	source, err := cluster.NewFileSource(cluster.FileConfig{
		Dir: dir, Store: store, NodeName: thisNode, Policy: true, Log: slog.New(slog.NewTextHandler(failure(cancel), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- source.Run(ctx) }()
	changes := store.Subscribe(cluster.NetworkPolicies)
	defer changes.Close()
	_, err = changes.Next(ctx)
	cancel(nil)
	if runErr := <-done; err != nil || runErr != nil {
		t.Fatal(err, runErr)
	}
	return &World{Snapshot: store.Snapshot()}
}

// failure ends a context when something is logged, as what is refused is.
type failure context.CancelCauseFunc

func (f failure) Write(line []byte) (int, error) {
	f(errors.New(string(line)))
	return len(line), nil
}

// of is the nine pods with more objects.
func of(t *testing.T, yaml string) *World {
	t.Helper()
	return read(t, nine()+"---\n"+yaml)
}

// ask reads a question, such as "ingress x/a w/b TCP 80": direction, pod, peer, protocol, port or type and code. A peer is an
// address or a pod, whose address of IPv6 has a 6 behind it.
func ask(t *testing.T, w *World, text string) Question {
	t.Helper()
	words := strings.Fields(text)
	pod := func(text string) cluster.Name {
		namespace, name, _ := strings.Cut(text, "/")
		return cluster.Name{Namespace: namespace, Name: name}
	}
	q := Question{Pod: pod(words[1]), Ingress: words[0] == "ingress"}
	if peer := words[2]; strings.Contains(peer, "/") {
		name, six := strings.CutSuffix(peer, "6")
		p := w.Snapshot.PolicyPod(pod(name))
		if q.Peer = p.Addrs[0]; six {
			q.Peer = p.Addrs[1]
		}
	} else {
		q.Peer = netip.MustParseAddr(peer)
	}
	var known bool
	if q.Protocol, known = map[string]cluster.Protocol{
		"TCP": cluster.TCP, "UDP": cluster.UDP, "SCTP": cluster.SCTP, "ICMP": ICMP, "ICMPv6": ICMPv6, "GRE": 47,
	}[words[3]]; !known {
		t.Fatalf("%s: no protocol %s", text, words[3])
	}
	if len(words) > 4 {
		kind, code, message := strings.Cut(words[4], "/")
		number, err := strconv.ParseUint(kind, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		if q.Port = uint16(number); message {
			under, err := strconv.ParseUint(code, 10, 8)
			if err != nil {
				t.Fatal(err)
			}
			q.Port = uint16(number)<<8 | uint16(under)
		}
	}
	return q
}

// expect asks every question; each begins with + for what is allowed, or - for what is not.
func (w *World) expect(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if got := w.Verdict(ask(t, w, line[1:])); got.Allowed != (line[0] == '+') {
			t.Errorf("%s: %s", line, got)
		}
	}
}

// policyYAML is a NetworkPolicy of namespace x; its spec is in one line.
func policyYAML(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: x}\nspec: {%s}\n", name, spec)
}
