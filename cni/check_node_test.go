//go:build node

package cni

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/netlab"
)

// checkOf is the CHECK of a pod with the result of its ADD.
func checkOf(datapath Datapath, container string, pod *netlab.NetNS, result []byte) agentapi.CNIRequest {
	r := request("CHECK", container, pod)
	r.Config = config("1.1.0", fmt.Sprintf(`,"datapath":%q,"prevResult":%s`, datapath, result))
	return r
}

// TestCheckFindsWhatIsBroken breaks everything that ADD does, one thing at a time, and CHECK names it.
func TestCheckFindsWhatIsBroken(t *testing.T) {
	for _, datapath := range onThisKernel {
		t.Run(string(datapath), func(t *testing.T) {
			w := newWorld(t)
			w.addresses.dual = true
			a := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
			good := checkOf(datapath, "a", a, w.mustServe(t, on(datapath, request("ADD", "a", a))))
			w.mustServe(t, good)
			known, _ := w.server.attachedAs(Key{"net", "a", "eth0"})
			pod, err := openPod(a.Path(), w.server.host)
			check0(t, err)
			defer pod.Close()
			n := namespaces{w.server.host, pod}
			plan := Plan(known.wiring)
			for _, op := range plan {
				check0(t, n.on(breakSide(op), func() error { return breakOne(op) }))
				answer := w.server.Handle(t.Context(), good)
				if answer.Error == nil || answer.Error.Code != codeBroken || !strings.Contains(answer.Error.Error(), op.String()) {
					t.Errorf("%s: broken, and CHECK says %v", op, answer.Error)
				}
				check0(t, n.repair(plan, op))
			}
			w.mustServe(t, good)
			check0(t, w.pods.Remove(t.Context(), known.record.entry()))
			if code := w.mustFail(t, good); code != codeBroken {
				t.Errorf("without the datapath's entry: code %d", code)
			}
		})
	}
}

// CHECK sees limits that are not as they should be.
func TestCheckOfLimits(t *testing.T) {
	w := newWorld(t)
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	add := request("ADD", "a", pod)
	add.Config = config("1.1.0", `,"capabilities":{"bandwidth":true},"runtimeConfig":{"bandwidth":{"ingressRate":1000000,"egressRate":1000000}}`)
	good := checkOf(Veth, "a", pod, w.mustServe(t, add))
	w.mustServe(t, good)
	check0(t, w.shaper.Shape(t.Context(), Shaped{Key: Key{"net", "a", "eth0"}}))
	if code := w.mustFail(t, good); code != codeBroken {
		t.Errorf("code is %d, want %d", code, codeBroken)
	}
}

// breakSide is where an Op can be broken: those that make links are in the pod but for a veth pair.
func breakSide(op Op) Side {
	switch op.(type) {
	case AddIPVlan, MoveLink:
		return InPod
	}
	return sideOf(op)
}

func breakOne(op Op) error {
	alias := func(l netlink.Link) error { return netlink.LinkSetAlias(l, "other") }
	switch o := op.(type) {
	case AddVeth:
		return withLink(o.Host, alias)
	case AddIPVlan:
		return withLink(o.Name, alias)
	case MoveLink:
		return withLink(o.Name, alias)
	case SetSysctl:
		other := map[string]string{"0": "1", "1": "0", "2": "1"}[o.Value]
		return SetSysctl{o.Side, o.Key, other, o.Optional}.write()
	case SetUp:
		return withLink(o.Link, netlink.LinkSetDown)
	case AddAddress:
		return withLink(o.Link, func(l netlink.Link) error { return netlink.AddrDel(l, o.address()) })
	case AddNeighbour:
		return withLink(o.Link, func(l netlink.Link) error { return netlink.NeighDel(o.neighbour(l)) })
	case AddRoute:
		return withLink(o.Link, func(l netlink.Link) error { return netlink.RouteDel(o.route(l)) })
	}
	return fmt.Errorf("do not know how to break %s", op)
}

// repair makes the Op of a plan again, and all of the plan if the kernel takes other things away with what was broken.
func (n namespaces) repair(plan []Op, broken Op) error {
	switch broken.(type) {
	case SetUp, AddAddress, SetSysctl:
	default:
		plan = []Op{broken}
	}
	for _, op := range plan {
		name, alias := "", ""
		switch o := op.(type) {
		case AddVeth:
			name, alias = o.Host, o.Alias
		case AddIPVlan:
			name, alias = o.Name, o.Alias
		case MoveLink:
			name, alias = o.Name, o.Alias
		default:
			if err := n.apply([]Op{op}); err != nil {
				return err
			}
			continue
		}
		err := n.on(breakSide(op), func() error {
			return withLink(name, func(l netlink.Link) error { return netlink.LinkSetAlias(l, alias) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}
