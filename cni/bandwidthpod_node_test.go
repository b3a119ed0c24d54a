//go:build node

package cni

import (
	"context"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/netlab"
)

// TestLimitsOfAPod follows the limits of one pod through its life: its annotations and the runtime's capability limit it at
// ADD, CHECK sees to them, they are put back, changed and taken away while it runs, and DEL leaves none in its namespace.
func TestLimitsOfAPod(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) { testLimitsOfAPod(t, datapath) })
	}
}

func testLimitsOfAPod(t *testing.T, datapath Datapath) {
	t.Helper()
	w := newWorld(t)
	shaper := must[*LinkShaper](t)(NewShaper(w.node.Path()))
	t.Cleanup(func() { check0(t, shaper.Close()) })
	w.config.Shaper = shaper
	w.config.Wish = func(context.Context, Attachment, map[string]string) (Wish, error) {
		return Wish{Limits: Limits{Egress: 5_000_000}}, nil
	}
	w.serve(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	k := Key{"net", "a", "eth0"}
	add := func() agentapi.CNIRequest {
		r := request("ADD", "a", pod)
		r.Config = config("1.1.0", fmt.Sprintf(`,"datapath":%q,"capabilities":{"bandwidth":true},"runtimeConfig":{"bandwidth":
			{"ingressRate":20000000,"ingressBurst":4294967295,"egressRate":1000000,"egressBurst":1000}}`, datapath))
		return checkOf(datapath, "a", pod, w.mustServe(t, r))
	}
	want := func(limits Limits) {
		t.Helper()
		r, known := w.server.recordOf(k)
		if !known || r.Limits != limits {
			t.Fatalf("the record is %+v, want limits %+v", r, limits)
		}
		check0(t, shaper.Verify(t.Context(), r.shaped()))
	}

	// What the pod's annotations say goes before what the runtime says.
	inspect := add()
	limits := Limits{20_000_000, 5_000_000}
	want(limits)
	w.mustServe(t, inspect)
	ingress, link := pod, ifbIngress
	if datapath == Veth {
		ingress, link = w.node, k.HostLink()
	}
	check0(t, ingress.Do(func() error { return withLink(link, deleteBucket) }))
	if code := w.mustFail(t, inspect); code != codeBroken {
		t.Errorf("CHECK of a pod without its bucket: code %d", code)
	}
	check0(t, w.server.SetLimits(t.Context(), k, limits))
	want(limits)
	w.mustServe(t, inspect)

	limits = Limits{Ingress: 30_000_000}
	check0(t, w.server.SetLimits(t.Context(), k, limits))
	want(limits)
	w.mustServe(t, inspect)
	check0(t, w.server.SetLimits(t.Context(), k, Limits{}))
	want(Limits{})
	check0(t, pod.Do(func() error { return wantUnshaped(t) }))

	del := request("DEL", "a", pod)
	w.mustServe(t, del)
	inspect = add()
	w.mustServe(t, inspect)
	w.mustServe(t, del)
	check0(t, pod.Do(func() error { return wantUnshaped(t) }))
	w.wantNothingLeft(t)
}

func deleteBucket(l netlink.Link) error {
	return netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: rootAttrs(l, handleOurs), QdiscType: "tbf"})
}
