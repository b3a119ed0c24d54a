package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"pgregory.net/rapid"
)

// noon is a moment without a fraction of a second, which the API does not keep.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func apiNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: testNode, Annotations: map[string]string{"other.io/a": "b"}},
		Status: corev1.NodeStatus{
			Capacity:    corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi")},
			Allocatable: corev1.ResourceList{"cpu": resource.MustParse("3900m"), "memory": resource.MustParse("7Gi")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
		},
	}
}

// patched is the node as an API server makes it of a patch.
func patched(t interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}, node *corev1.Node, patch string) *corev1.Node {
	t.Helper()
	before, err := json.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, []byte(patch), corev1.Node{})
	if err != nil {
		t.Fatalf("patch %s: %v", patch, err)
	}
	out := new(corev1.Node)
	if err := json.Unmarshal(after, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPlanNode(t *testing.T) {
	t.Parallel()
	full := NodeReport{
		Resources:   map[string]int64{"nearpath.io/ip": 30, "aliyun/eni": 2},
		Conditions:  []NodeCondition{{"SufficientIP", true, "SufficientIP", "30 of 30 free"}, {"Other", true, "Fine", ""}},
		Annotations: map[string]string{"k8s.aliyun.com/max-available-ip": "30", "other.io/a": "b", "other.io/gone": ""},
	}
	change := func(f func(*NodeReport)) NodeReport {
		r := full
		r.Resources, r.Annotations = maps.Clone(full.Resources), maps.Clone(full.Annotations)
		r.Conditions = append([]NodeCondition(nil), full.Conditions...)
		f(&r)
		return r
	}
	shown := patched(t, apiNode(), planNode(nodeStateOf(apiNode()), full, noon).String())
	const fine = `{"type":"Other","status":"True","lastHeartbeatTime":"2026-03-01T12:0%[1]d:00Z","lastTransitionTime":"2026-03-01T12:00:00Z","reason":"Fine"}`
	conditions := func(minute int, status, reason, message string, since int) string {
		return fmt.Sprintf(`{"status":{"conditions":[{"type":"SufficientIP","status":%q,"lastHeartbeatTime":"2026-03-01T12:0%[2]d:00Z",`+
			`"lastTransitionTime":"2026-03-01T12:0%[5]d:00Z","reason":%[3]q,"message":%[4]q},`, status, minute, reason, message, since) +
			fmt.Sprintf(fine, minute) + `]}}`
	}
	for name, tt := range map[string]struct {
		node *corev1.Node
		want NodeReport
		at   time.Duration
		out  string
	}{
		"nothing to say": {node: apiNode(), out: "{}"},
		"the first report": {node: apiNode(), want: full,
			out: `{"metadata":{"annotations":{"k8s.aliyun.com/max-available-ip":"30"}},"status":{"capacity":{"aliyun/eni":"2","nearpath.io/ip":"30"},` +
				strings.TrimPrefix(conditions(0, "True", "SufficientIP", "30 of 30 free", 0), `{"status":{`)},
		"shown already": {node: shown, want: full, at: time.Minute, out: "{}"},
		"a message alone": {node: shown, at: time.Minute, out: "{}",
			want: change(func(r *NodeReport) { r.Conditions[0].Message = "29 of 30 free" })},
		"the heartbeat, with the newest message": {node: shown, at: heartbeat,
			want: change(func(r *NodeReport) { r.Conditions[0].Message = "29 of 30 free" }),
			out:  conditions(5, "True", "SufficientIP", "29 of 30 free", 0)},
		"a clock set back": {node: patched(t, shown, `{"status":{"conditions":[{"type":"SufficientIP","lastHeartbeatTime":"2026-03-01T13:00:00Z"}]}}`),
			want: full, at: time.Minute, out: conditions(1, "True", "SufficientIP", "30 of 30 free", 0)},
		"a condition that turns": {node: shown, at: time.Minute,
			want: change(func(r *NodeReport) {
				r.Conditions[0] = NodeCondition{"SufficientIP", false, "InsufficientIP", "none free"}
			}),
			out: conditions(1, "False", "InsufficientIP", "none free", 1)},
		"another reason": {node: shown, at: time.Minute,
			want: change(func(r *NodeReport) { r.Conditions[0].Reason = "Plenty" }),
			out:  conditions(1, "True", "Plenty", "30 of 30 free", 0)},
		"a resource less, an annotation more": {node: shown, at: time.Minute,
			want: change(func(r *NodeReport) { delete(r.Resources, "nearpath.io/ip"); r.Annotations["nearpath.io/x"] = "y" }),
			out:  `{"metadata":{"annotations":{"nearpath.io/x":"y"}},"status":{"capacity":{"nearpath.io/ip":null}}}`},
		"a resource of another domain left out": {node: shown, at: time.Minute, out: "{}",
			want: change(func(r *NodeReport) { delete(r.Resources, "aliyun/eni") })},
		"an annotation taken off": {node: shown, at: time.Minute,
			want: change(func(r *NodeReport) { r.Annotations["other.io/a"] = "" }),
			out:  `{"metadata":{"annotations":{"other.io/a":null}}}`},
		"what the kubelet has reset": {node: patched(t, shown, `{"status":{"capacity":{"nearpath.io/ip":"0"}}}`), want: full, at: time.Minute,
			out: `{"status":{"capacity":{"nearpath.io/ip":"30"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.out, planNode(nodeStateOf(tt.node), tt.want, noon.Add(tt.at)).String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func drawReport(t *rapid.T) NodeReport {
	r := NodeReport{Resources: make(map[string]int64), Annotations: make(map[string]string)}
	for _, name := range []string{"nearpath.io/ip", "nearpath.io/eni", "aliyun/eni"} {
		if rapid.Bool().Draw(t, name) {
			r.Resources[name] = rapid.Int64Range(0, 2).Draw(t, "count")
		}
	}
	for _, key := range []string{"k8s.aliyun.com/max-available-ip", "other.io/a"} {
		if rapid.Bool().Draw(t, key) {
			r.Annotations[key] = rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value")
		}
	}
	for _, kind := range []string{ConditionSufficientIP, "Other"} {
		if rapid.Bool().Draw(t, kind) {
			r.Conditions = append(r.Conditions, NodeCondition{kind, rapid.Bool().Draw(t, "ok"), "R", "m"})
		}
	}
	return r
}

// Whatever the node has been through, one patch brings it to the report, and leaves to others what is theirs.
func TestPlanNodeConverges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node, now, theirs := apiNode(), noon, apiNode()
		for range rapid.IntRange(1, 6).Draw(t, "reports") {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			want := drawReport(t)
			node = patched(t, node, planNode(nodeStateOf(node), want, now).String())
			if again := planNode(nodeStateOf(node), want, now); !again.empty() {
				t.Fatalf("after the patch for %+v there is still to do: %s", want, again)
			}
			if next := nextHeartbeat(nodeStateOf(node), want.Conditions); len(want.Conditions) > 0 && (!next.After(now) || next.After(now.Add(heartbeat))) {
				t.Fatalf("next heartbeat at %s, now is %s", next, now)
			}
			checkNode(t, node, want)
			if diff := cmp.Diff(theirs.Status.Allocatable, node.Status.Allocatable); diff != "" {
				t.Fatalf("allocatable is the kubelet's:\n%s", diff)
			}
			ready, _ := nodeStateOf(node).condition("Ready")
			if cpu := node.Status.Capacity["cpu"]; cpu.CmpInt64(4) != 0 || ready != theirs.Status.Conditions[0] {
				t.Fatalf("changed what is not ours: cpu %s, %+v", &cpu, ready)
			}
		}
	})
}

func checkNode(t *rapid.T, node *corev1.Node, want NodeReport) {
	for name := range node.Status.Capacity {
		if _, ok := want.Resources[string(name)]; !ok && strings.HasPrefix(string(name), ownDomain) {
			t.Fatalf("the node still shows %s", name)
		}
	}
	for name, count := range want.Resources {
		if got := node.Status.Capacity[corev1.ResourceName(name)]; got.CmpInt64(count) != 0 {
			t.Fatalf("capacity %s is %s, want %d", name, &got, count)
		}
	}
	for key, value := range want.Annotations {
		if got, ok := node.Annotations[key]; got != value || ok != (value != "") {
			t.Fatalf("annotation %s is %q, want %q", key, got, value)
		}
	}
	for _, c := range want.Conditions {
		if got, ok := nodeStateOf(node).condition(c.Type); !ok || got.Status != status(c.OK) || got.Reason != c.Reason {
			t.Fatalf("condition %+v, want %+v", got, c)
		}
	}
}
