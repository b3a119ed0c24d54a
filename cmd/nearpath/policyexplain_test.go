package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

func TestParsePolicyPort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]policyRequest{
		"80":         {Protocol: 6, Port: 80},
		"53/udp":     {Protocol: 17, Port: 53},
		"5060/132":   {Protocol: 132, Port: 5060},
		"8/ICMP":     {Protocol: 1, Port: 8 << 8},
		"128/icmpv6": {Protocol: 58, Port: 128 << 8},
		"7/47":       {Protocol: 47},
	} {
		var got policyRequest
		if err := got.parsePort(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "http", "70000", "80/", "80/XTP", "80/300", "300/icmp", "-1"} {
		if err := new(policyRequest).parsePort(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// explainedSnapshot has a pod of another node, and one of this that has ended and had the address of one that runs.
func explainedSnapshot() *cluster.Snapshot {
	s := cluster.NewStore()
	s.Replace(cluster.Objects{PolicyPods: []*cluster.PolicyPod{
		{Name: cluster.Name{Namespace: "shop", Name: "far"}, Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00::1")}},
		{Name: cluster.Name{Namespace: "shop", Name: "ended"}, Addrs: []netip.Addr{rigPod}, Phase: cluster.PodSucceeded},
	}})
	return s.Snapshot()
}

// TestPolicyEnds: pods are known by name and by address, those of this node by what their attachment says, and both ends
// have addresses of one family.
func TestPolicyEnds(t *testing.T) {
	t.Parallel()
	pods := []localPod{{Ref: shopPod("web"), Addrs: []netip.Addr{rigPod, netip.MustParseAddr("fd00::5")}, Number: 3}}
	for _, tt := range []struct{ from, to, want string }{
		{"shop/web", "shop/far", "pod shop/web 10.8.0.5 (here) -> pod shop/far 10.9.0.1"},
		{"shop/far", "fd00::5", "pod shop/far fd00::1 -> pod shop/web fd00::5 (here)"},
		{"10.8.0.5", "192.0.2.1", "pod shop/web 10.8.0.5 (here) -> 192.0.2.1"},
		{"::ffff:10.9.0.1", "shop/web", "pod shop/far 10.9.0.1 -> pod shop/web 10.8.0.5 (here)"},
		{"192.0.2.1", "fd00::5", ""}, {"web", "shop/far", ""}, {"shop/none", "shop/far", ""},
	} {
		from, to, err := policyEnds(explainedSnapshot(), pods, policyRequest{From: tt.from, To: tt.to})
		got := endText(from.view()) + " -> " + endText(to.view())
		if err != nil {
			got = ""
		}
		if got != tt.want {
			t.Errorf("%s, %s: %q, %v, want %q", tt.from, tt.to, got, err, tt.want)
		}
	}
}

func endText(e endView) string {
	if e.Here {
		return e.String() + " (here)"
	}
	return e.String()
}

// TestTrackedTexts: connections between the two ends at the port are shown, whoever of them is the pod and whatever address a
// Service's client used.
func TestTrackedTexts(t *testing.T) {
	t.Parallel()
	web, db, vip := netip.MustParseAddrPort("10.8.0.5:4000"), netip.MustParseAddrPort("10.9.0.1:80"), netip.MustParseAddrPort("10.96.0.1:8080")
	pod := localPod{Addrs: []netip.Addr{web.Addr()}}
	all := []bpf.TrackedFlow{
		{Protocol: 6, Pod: web, Peer: vip, Judged: db.Addr(), Point: 6<<16 | 80, Generation: 3},
		{Protocol: 6, Pod: web, Peer: db, Judged: db.Addr(), Point: 6<<16 | 80, Denied: true, Generation: 4},
		{Protocol: 6, Pod: web, Peer: db, Judged: db.Addr(), Point: 6<<16 | 81},
		{Protocol: 17, Pod: web, Peer: db, Judged: db.Addr(), Point: 17<<16 | 80},
		{Protocol: 6, Pod: netip.MustParseAddrPort("10.8.0.5:80"), Peer: netip.MustParseAddrPort("10.9.0.1:5000"), Judged: db.Addr(), Point: 6<<16 | 80, Ingress: true},
	}
	r := policyRequest{Protocol: 6, Port: 80}
	want := []string{
		"10.8.0.5:4000 -> 10.9.0.1:80, generation 4, cut by a later policy",
		"10.8.0.5:4000 -> 10.96.0.1:8080, generation 3, judged as 10.9.0.1",
	}
	if diff := cmp.Diff(want, trackedTexts(all, pod, r, web.Addr(), db.Addr())); diff != "" {
		t.Errorf("from the pod (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.9.0.1:5000 -> 10.8.0.5:80, generation 0"}, trackedTexts(all, pod, r, db.Addr(), web.Addr())); diff != "" {
		t.Errorf("to the pod (-want +got):\n%s", diff)
	}
}

func TestPrintPolicyAnswer(t *testing.T) {
	t.Parallel()
	a := policyAnswer{
		From: endView{Pod: "shop/web", Address: rigPod, Here: true}, To: endView{Pod: "shop/far", Address: netip.MustParseAddr("10.9.0.1")}, Protocol: "TCP", Port: 80, Allowed: true,
		Egress: directionAnswer{Allowed: true, Rule: "allowed by NetworkPolicy shop/web, egress rule 0", Kernel: &kernelAnswer{
			Allowed: true, Set: "0x1", Class: "0x2", Generation: 9, Tracked: []string{"a -> b"},
		}},
		Ingress: directionAnswer{Allowed: true, Rule: "allowed: not isolated for ingress"},
	}
	print := func() (string, error) {
		body, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = printPolicyAnswer(&out, body)
		return out.String(), err
	}
	got, err := print()
	want := `pod shop/web 10.8.0.5 -> pod shop/far 10.9.0.1, TCP port 80: allowed
egress of pod shop/web 10.8.0.5: allowed by NetworkPolicy shop/web, egress rule 0
  allowed by the kernel: set 0x1, class 0x2, generation 9
  remembered: a -> b
ingress of pod shop/far 10.9.0.1: allowed: not isolated for ingress
`
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	a.Egress.Kernel.Allowed = false
	if _, err := print(); err == nil || !strings.Contains(err.Error(), "egress") {
		t.Errorf("a kernel that differs: %v", err)
	}
}
