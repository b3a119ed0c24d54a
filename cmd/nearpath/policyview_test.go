package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/policy"
)

// viewedSync has one pod of this node and three policies, one of which cannot be read.
func viewedSync(t *testing.T) *syncRig {
	t.Helper()
	r := startSync(t, func(r *syncRig) {
		r.attached = []localPod{{Ref: shopPod("web"), Addrs: []netip.Addr{rigPod}, Number: 3}}
		r.planner.isolating = []policy.Ref{{Kind: "NetworkPolicy", Name: cluster.Name{Namespace: "shop", Name: "web"}}}
	})
	meta := func(namespace, name string) cluster.Meta {
		return cluster.Meta{Name: cluster.Name{Namespace: namespace, Name: name}}
	}
	r.store.Update(func(e *cluster.Edit) {
		e.PutNetworkPolicy(&cluster.NetworkPolicy{Meta: meta("shop", "web")})
		e.PutNetworkPolicy(&cluster.NetworkPolicy{Meta: meta("shop", "bad"), Refused: "spec.ingress[0]: no port"})
		e.PutClusterNetworkPolicy(&cluster.ClusterNetworkPolicy{Meta: meta("", "admin")})
	})
	synctest.Wait()
	return r
}

func TestPoliciesView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := viewedSync(t)
		show := func() string {
			v, err := r.view()
			if err != nil {
				t.Fatal(err)
			}
			body, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := printPolicies(&out, body); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		want := `KIND                  NAMESPACE  NAME   STATE     PODS HERE  REASON
ClusterNetworkPolicy  -          admin  enforced  -          -
NetworkPolicy         shop       bad    refused   -          spec.ingress[0]: no port
NetworkPolicy         shop       web    enforced  shop/web   -

POD       ADDRESSES  INGRESS                 EGRESS                  DENIED  GENERATION
shop/web  10.8.0.5   NetworkPolicy shop/web  NetworkPolicy shop/web  5       7

shop/web was refused connections for want of room, 2 packets: the table of connections is full, or the pod has its quarter of it; set policy.flows to more
`
		if diff := cmp.Diff(want, alignedAs(show())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		r.mu.Lock()
		r.failure = errors.New("too large")
		r.mu.Unlock()
		if got := show(); !strings.Contains(got, "pending") || !strings.Contains(got, "generation 7: too large") {
			t.Errorf("while policies cannot be enforced:\n%s", got)
		}
	})
}

// alignedAs has no blanks at the ends of lines.
func alignedAs(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

// TestDropOf: an event is told in names: of pods of this node by their attachments, of others by the cluster.
func TestDropOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := viewedSync(t)
		r.store.Update(func(e *cluster.Edit) {
			e.PutPolicyPod(&cluster.PolicyPod{Name: cluster.Name{Namespace: "shop", Name: "far"}, Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.1")}})
		})
		synctest.Wait()
		e := bpf.PolicyEvent{
			Outcome: bpf.PolicyDenied, Ingress: true, Protocol: 6, Pod: netip.AddrPortFrom(rigPod, 80), Peer: netip.MustParseAddrPort("10.9.0.1:4000"),
			Point: 6<<16 | 80, Number: 3, Generation: 7,
		}
		want := dropView{
			Pod: "shop/web", Address: rigPod, PeerPod: "shop/far", PeerAddress: netip.MustParseAddr("10.9.0.1"), Direction: ingressName, Protocol: "TCP",
			Port: 80, SourcePort: 4000, Reason: "no policy allows it", Policies: []string{"NetworkPolicy shop/web"}, Generation: 7,
		}
		got := r.dropOf(e)
		got.Time = time.Time{}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		e.Number, e.Ingress, e.Protocol, e.Point = 4, false, 1, 1<<16|8<<8
		if got := r.dropOf(e); got.Pod != "" || got.Port != 8 || got.Protocol != "ICMP" || got.SourcePort != 0 || got.Direction != egressName {
			t.Errorf("an event of a pod that is gone: %+v", got)
		}
	})
}

func TestPolicyCollector(t *testing.T) {
	t.Parallel()
	twice := []localPod{{Ref: shopPod("web"), Number: 3}, {Ref: shopPod("web"), Number: 4}}
	c := &policyCollector{pods: func() []localPod { return twice }, kernel: fakeKernel{}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if f.GetName() != "nearpath_policy_packets_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			words := []string{}
			for _, l := range m.GetLabel() {
				words = append(words, l.GetValue())
			}
			got = append(got, fmt.Sprint(strings.Join(words, " "), " ", m.GetCounter().GetValue()))
		}
	}
	if diff := cmp.Diff([]string{"egress shop full web 4", "ingress shop denied web 6"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestTrackedSweeper: pods that are refused connections are told of, from the first look on.
func TestTrackedSweeper(t *testing.T) {
	t.Parallel()
	refused := map[string]uint64{"shop/web": 5}
	var alarms []string
	s := newTrackedSweeper(func() (bpf.TrackedStats, error) {
		return bpf.TrackedStats{Entries: 3, Max: 10, Swept: 2, Denied: 1}, nil
	},
		func() (map[string]uint64, error) { return refused, nil }, func(reason, message string) { alarms = append(alarms, reason+" "+message) },
		slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	s.once()
	refused = map[string]uint64{"shop/web": 5, "shop/db": 0}
	s.once()
	if len(alarms) > 0 {
		t.Errorf("nobody was refused since the first look, and yet %q", alarms)
	}
	refused = map[string]uint64{"shop/web": 5, "shop/db": 2}
	s.once()
	if len(alarms) != 1 || !strings.Contains(alarms[0], "PolicyFlowsFull") || !strings.Contains(alarms[0], "shop/db") {
		t.Errorf("alarms: %q", alarms)
	}
	if got := [...]float64{value(t, s.entries), value(t, s.room), value(t, s.swept), value(t, s.denied)}; got != [...]float64{3, 10, 6, 1} {
		t.Errorf("entries, room, swept, denied: %v", got)
	}
}
