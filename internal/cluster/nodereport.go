package cluster

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// ownDomain is the domain whose extended resources are ours alone.
	ownDomain = "nearpath.io/"
	// heartbeat is how old the word about a condition grows, as old as the kubelet lets its own grow.
	heartbeat = 5 * time.Minute
)

// A NodeReport is what a node says about itself to the scheduler and to people. It must not be changed once it is given
// away.
type NodeReport struct {
	// Resources are extended resources by name, such as nearpath.io/ip: how many the node has in all. Those of
	// nearpath.io that it leaves out are taken off the node; others are left alone.
	Resources map[string]int64
	// Conditions that it leaves out are left alone.
	Conditions []NodeCondition
	// Annotations: an empty value takes the annotation off the node, one that is left out is left alone, since users
	// configure nodes by annotations, too.
	Annotations map[string]string
}

// A NodeCondition is one entry of a node's status.conditions.
type NodeCondition struct {
	Type    string
	OK      bool   // status True, else False
	Reason  string // one word in CamelCase
	Message string // for people; a change of it alone waits for the next write
}

// A nodeState is what the node shows, as far as a report can concern it.
type nodeState struct {
	annotations map[string]string
	capacity    corev1.ResourceList
	conditions  []corev1.NodeCondition
}

func nodeStateOf(node *corev1.Node) *nodeState {
	return &nodeState{node.Annotations, node.Status.Capacity, node.Status.Conditions}
}

func (s *nodeState) condition(kind string) (corev1.NodeCondition, bool) {
	for _, c := range s.conditions {
		if string(c.Type) == kind {
			return c, true
		}
	}
	return corev1.NodeCondition{}, false
}

// A nodePatch is a strategic merge patch of nodes/status, which takes annotations as well. It says nothing of
// status.allocatable: that is the kubelet's, who derives it from the capacity.
type nodePatch struct {
	Metadata struct {
		Annotations changes `json:"annotations,omitempty"`
	} `json:"metadata,omitzero"`
	Status struct {
		Capacity   changes                `json:"capacity,omitempty"`
		Conditions []corev1.NodeCondition `json:"conditions,omitempty"`
	} `json:"status,omitzero"`
}

// changes are entries of a map to set, or to remove where the value is nil.
type changes map[string]*string

func (c *changes) set(key, value string) { c.put(key, &value) }
func (c *changes) remove(key string)     { c.put(key, nil) }

func (c *changes) put(key string, value *string) {
	if *c == nil {
		*c = make(changes)
	}
	(*c)[key] = value
}

func (p *nodePatch) empty() bool {
	return len(p.Metadata.Annotations)+len(p.Status.Capacity)+len(p.Status.Conditions) == 0
}

func (p *nodePatch) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// planNode says what must change for the node to show the report.
func planNode(shown *nodeState, want NodeReport, now time.Time) *nodePatch {
	p := new(nodePatch)
	p.Metadata.Annotations = planAnnotations(shown.annotations, want.Annotations)
	p.Status.Capacity = planCapacity(shown.capacity, want.Resources)
	p.Status.Conditions = planConditions(shown, want.Conditions, now)
	return p
}

func planAnnotations(shown, want map[string]string) changes {
	var patch changes
	for key, value := range want {
		have, ok := shown[key]
		switch {
		case value == "" && ok:
			patch.remove(key)
		case value != have:
			patch.set(key, value)
		}
	}
	return patch
}

func planCapacity(shown corev1.ResourceList, want map[string]int64) changes {
	var patch changes
	for name, count := range want {
		if have, ok := shown[corev1.ResourceName(name)]; !ok || have.CmpInt64(count) != 0 {
			patch.set(name, strconv.FormatInt(count, 10))
		}
	}
	for name := range shown {
		if _, wanted := want[string(name)]; !wanted && strings.HasPrefix(string(name), ownDomain) {
			patch.remove(string(name))
		}
	}
	return patch
}

// planConditions writes all conditions when one is due, so that their heartbeats stay together.
func planConditions(shown *nodeState, want []NodeCondition, now time.Time) []corev1.NodeCondition {
	due := false
	patch := make([]corev1.NodeCondition, 0, len(want))
	for _, c := range want {
		have, ok := shown.condition(c.Type)
		next := corev1.NodeCondition{
			Type: corev1.NodeConditionType(c.Type), Status: status(c.OK), Reason: c.Reason, Message: c.Message,
			LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
		}
		if ok && have.Status == next.Status {
			next.LastTransitionTime = have.LastTransitionTime
		}
		patch = append(patch, next)
		due = due || !ok || have.Status != next.Status || have.Reason != next.Reason || stale(have, now)
	}
	if !due {
		return nil
	}
	return patch
}

// stale takes a heartbeat from the future, by a clock that has been set back, for no heartbeat.
func stale(c corev1.NodeCondition, now time.Time) bool {
	age := now.Sub(c.LastHeartbeatTime.Time)
	return age >= heartbeat || age < 0
}

func status(ok bool) corev1.ConditionStatus {
	if ok {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// nextHeartbeat returns when a node that shows the conditions must hear of them again, the zero time for never.
func nextHeartbeat(shown *nodeState, want []NodeCondition) time.Time {
	var next time.Time
	for _, c := range want {
		have, _ := shown.condition(c.Type)
		if at := have.LastHeartbeatTime.Add(heartbeat); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}
