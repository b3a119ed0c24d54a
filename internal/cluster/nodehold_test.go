package cluster

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func ips(ok bool) []NodeCondition {
	reason := "InsufficientIP"
	if ok {
		reason = "SufficientIP"
	}
	return []NodeCondition{{"Other", true, "Fine", ""}, {ConditionSufficientIP, ok, reason, ""}}
}

// The plain rule: false while the report says so, and for ten minutes after the last moment it did.
func TestShortageIsHeld(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s shortage
		var last time.Time // the last moment of a shortage
		var before []NodeCondition
		now, ok := noon, true
		for range rapid.IntRange(1, 20).Draw(t, "reports") {
			now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "seconds")) * time.Second)
			if !ok {
				last = now
			}
			if rapid.Bool().Draw(t, "reported") {
				ok = rapid.Bool().Draw(t, "ok")
				s = s.note(before, ips(ok), now)
				before = ips(ok)
			}
			if !ok {
				last = now
			}
			shown := s.hold(ips(ok), now)
			want := ok && (last.IsZero() || now.Sub(last) >= shortageHold)
			if shown[1].OK != want || (shown[1].Reason == "SufficientIP") != want || !shown[0].OK {
				t.Fatalf("%s after a shortage at %s: %+v, want %t", now.Sub(last), last, shown, want)
			}
		}
	})
}

func TestShortageOfAnEarlierAgent(t *testing.T) {
	t.Parallel()
	shown := func(status corev1.ConditionStatus, heard time.Time) *nodeState {
		return &nodeState{conditions: []corev1.NodeCondition{{
			Type: ConditionSufficientIP, Status: status, Reason: "VSwitchFull", LastHeartbeatTime: metav1.NewTime(heard),
		}}}
	}
	for name, tt := range map[string]struct {
		shown  *nodeState
		before shortage
		want   bool
	}{
		"never heard of":       {shown: &nodeState{}, want: true},
		"true":                 {shown: shown(corev1.ConditionTrue, noon), want: true},
		"false of late":        {shown: shown(corev1.ConditionFalse, noon.Add(-9*time.Minute))},
		"false long ago":       {shown: shown(corev1.ConditionFalse, noon.Add(-10*time.Minute)), want: true},
		"false in the future":  {shown: shown(corev1.ConditionFalse, noon.Add(time.Hour))},
		"what we wrote before": {shown: shown(corev1.ConditionFalse, noon), before: shortage{seen: noon.Add(-11 * time.Minute)}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tt.before.adopt(tt.shown, noon)
			got := s.hold(ips(true), noon)[1]
			if got.OK != tt.want || !got.OK && got.Reason != "VSwitchFull" {
				t.Errorf("shown %+v, want %t", got, tt.want)
			}
			if later := s.hold(ips(true), noon.Add(shortageHold))[1]; !later.OK {
				t.Errorf("after %s still %+v", shortageHold, later)
			}
		})
	}
}
