package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseRef(t *testing.T) {
	for text, want := range map[string]string{
		"default/web":                    "/api/v1/namespaces/default/pods/web",
		"pod/default/web":                "/api/v1/namespaces/default/pods/web",
		"node/n1":                        "/api/v1/nodes/n1",
		"namespace/shop":                 "/api/v1/namespaces/shop",
		"daemonset/kube-system/nearpath": "/apis/apps/v1/namespaces/kube-system/daemonsets/nearpath",
		"endpointslice/default/web-1":    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1",
		"networkpolicy/default/deny":     "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/deny",
		"web":                            "",
		"deployment/web":                 "",
		"gadget/default/web":             "",
		"node/default/n1":                "",
		"pod/default/web/container":      "",
	} {
		r, err := parseRef(text)
		if want == "" {
			if err == nil {
				t.Errorf("%s: read as %+v, want an error", text, r)
			}
			continue
		}
		if err != nil || r.path() != want {
			t.Errorf("%s: %s (%v), want %s", text, r.path(), err, want)
		}
	}
}

func TestReadiness(t *testing.T) {
	const web = `"metadata":{"generation":2},"spec":{"replicas":2},"status":`
	for name, test := range map[string]struct{ kind, object, want string }{
		"ready pod":     {"pod", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, ""},
		"pod not ready": {"pod", `{"status":{"phase":"Pending","conditions":[{"type":"Ready","status":"False"}]}}`, "pod is Pending"},
		"pod without an image": {
			"pod", `{"status":{"containerStatuses":[{"name":"c","state":{"waiting":{"reason":"ErrImageNeverPull"}}}]}}`, "container c: ErrImageNeverPull",
		},
		"ready node":         {"node", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, ""},
		"node without CNI":   {"node", `{"status":{"conditions":[{"type":"Ready","status":"False","message":"cni plugin not initialized"}]}}`, "cni plugin"},
		"silent node":        {"node", `{}`, "not reported"},
		"rolled out":         {"deployment", `{` + web + `{"observedGeneration":2,"replicas":2,"updatedReplicas":2,"readyReplicas":2}}`, ""},
		"old generation":     {"deployment", `{` + web + `{"observedGeneration":1,"replicas":2,"updatedReplicas":2,"readyReplicas":2}}`, "latest change"},
		"old pods left":      {"deployment", `{` + web + `{"observedGeneration":2,"replicas":3,"updatedReplicas":2,"readyReplicas":2}}`, "2 pods wanted"},
		"one replica":        {"statefulset", `{` + web + `{"observedGeneration":2,"replicas":1,"updatedReplicas":1,"readyReplicas":1}}`, "1 ready"},
		"daemon everywhere":  {"daemonset", `{"status":{"desiredNumberScheduled":2,"updatedNumberScheduled":2,"numberReady":2}}`, ""},
		"daemon on one node": {"daemonset", `{"status":{"desiredNumberScheduled":2,"updatedNumberScheduled":2,"numberReady":1}}`, "2 pods wanted"},
		"anything that is":   {"service", `{}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := readiness(test.kind, []byte(test.object))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestToolKeyFollowsTheModule(t *testing.T) {
	module := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(module, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set := toolSet{name: "x", builds: []toolBuild{{packages: []string{"tool"}}}}
	key := func() string {
		t.Helper()
		k, err := set.key(module)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write("go.mod", "module x\n")
	write("go.sum", "")
	first := key()
	if key() != first {
		t.Error("the key of the same module differs")
	}
	write("go.sum", "y v1\n")
	second := key()
	set.builds[0].tags = "seccomp"
	if third := key(); first == second || second == third {
		t.Errorf("keys %s, %s, %s: a change did not show", first, second, third)
	}
}

func TestLogTailCutsLongLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("first\nsecond\n"+strings.Repeat("x", 2*lineWidth)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := logTail(file, 2), "second\n"+strings.Repeat("x", lineWidth); got != want {
		t.Errorf("got %q", got)
	}
}
