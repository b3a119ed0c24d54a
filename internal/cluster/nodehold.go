package cluster

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ConditionSufficientIP is the type of the node condition that says whether new pods will find an address; the name is
// Terway's. Once false it stays so for ten minutes after the last shortage: a pool at its limit sways around it with
// every pod, and who watches conditions must not.
const ConditionSufficientIP = "SufficientIP"

// shortageHold is how long a shortage is shown after it is over.
const shortageHold = 10 * time.Minute

// A shortage is the last time the node had too few addresses; the zero value is never.
type shortage struct {
	seen  time.Time // when it was last known to last
	shown NodeCondition
}

// note takes a report that replaces the one before.
func (s shortage) note(before, report []NodeCondition, now time.Time) shortage {
	for _, list := range [][]NodeCondition{report, before} { // what is said now, else what held until now
		if c, ok := sufficientIP(list); ok && !c.OK {
			return shortage{now, c}
		}
	}
	return s
}

// adopt takes what the node shows, which an earlier agent may have written: its last heartbeat is when that agent last
// said so.
func (s shortage) adopt(shown *nodeState, now time.Time) shortage {
	c, ok := shown.condition(ConditionSufficientIP)
	if !s.seen.IsZero() || !ok || c.Status != corev1.ConditionFalse {
		return s
	}
	seen := c.LastHeartbeatTime.Time
	if seen.After(now) {
		seen = now
	}
	return shortage{seen, NodeCondition{Type: ConditionSufficientIP, Reason: c.Reason, Message: c.Message}}
}

// until returns when the shortage need not be shown any more.
func (s shortage) until() time.Time { return s.seen.Add(shortageHold) }

// hold returns the conditions to show for those reported.
func (s shortage) hold(report []NodeCondition, now time.Time) []NodeCondition {
	if s.seen.IsZero() || !now.Before(s.until()) {
		return report
	}
	held := make([]NodeCondition, len(report))
	for i, c := range report {
		if held[i] = c; c.Type == ConditionSufficientIP && c.OK {
			held[i] = s.shown
		}
	}
	return held
}

func sufficientIP(list []NodeCondition) (NodeCondition, bool) {
	for _, c := range list {
		if c.Type == ConditionSufficientIP {
			return c, true
		}
	}
	return NodeCondition{}, false
}
