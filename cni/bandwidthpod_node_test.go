//go:build node

package cni

import (
	"context"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/test/netlab"
)

// TestLimitsOfAPod follows the limits of one pod through its life: the runtime's capability limits it at ADD, CHECK sees to
// them, they are changed and taken away while it runs, and DEL leaves nothing.
func TestLimitsOfAPod(t *testing.T) {
	w := newWorld(t)
	shaper := must[*LinkShaper](t)(NewShaper(w.node.Path()))
	t.Cleanup(func() { check0(t, shaper.Close()) })
	w.server.config.Shaper = shaper
	w.server.config.Wish = func(context.Context, Attachment, map[string]string) (Wish, error) {
		return Wish{Limits: Limits{Egress: 5_000_000}}, nil
	}
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	r := request("ADD", "a", pod)
	r.Config = config("1.1.0", `,"capabilities":{"bandwidth":true},"runtimeConfig":{"bandwidth":{"ingressRate":20000000,"ingressBurst":4294967295,"egressRate":1000000,"egressBurst":1000}}`)
	addr := addressIn(t, w.mustServe(t, r))
	k := Key{"net", "a", "eth0"}

	// What the pod's annotations say goes before what the runtime says.
	want := func(limits Limits) {
		t.Helper()
		attached := must[[]Attached](t)(w.server.Attached())
		if len(attached) != 1 || attached[0].Limits != limits {
			t.Fatalf("attached is %+v, want limits %+v", attached, limits)
		}
		shaped := shapedAs(Veth, limits)
		shaped.Key, shaped.NetNS, shaped.HostLink, shaped.MTU = k, r.NetNS, k.HostLink(), 1400
		check0(t, shaper.Verify(t.Context(), shaped))
	}
	want(Limits{20_000_000, 5_000_000})
	inspect := r
	inspect.Command = "CHECK"
	inspect.Config = config("1.1.0", fmt.Sprintf(`,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"%s/32"}]}`, addr))
	w.mustServe(t, inspect)

	check0(t, w.node.Do(func() error {
		return withLink(k.HostLink(), func(l netlink.Link) error {
			return netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: rootAttrs(l, handleOurs), QdiscType: "tbf"})
		})
	}))
	if code := w.mustFail(t, inspect); code != codeBroken {
		t.Errorf("CHECK of a pod without its bucket: code %d", code)
	}
	check0(t, w.server.SetLimits(t.Context(), k, Limits{20_000_000, 5_000_000}))
	want(Limits{20_000_000, 5_000_000}) // the same limits are put back
	check0(t, w.server.SetLimits(t.Context(), k, Limits{Ingress: 30_000_000}))
	want(Limits{Ingress: 30_000_000})
	w.mustServe(t, inspect)
	check0(t, w.server.SetLimits(t.Context(), k, Limits{}))
	want(Limits{})
	check0(t, pod.Do(func() error { return wantUnshaped(t) }))

	del := r
	del.Command = "DEL"
	w.mustServe(t, del)
	w.wantNothingLeft(t)
}
