package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/ipam"
)

// registerViews adds the nouns of "nearpath get" to the API.
func (a *agent) registerViews(api *agentapi.Server) {
	api.Handle(nouns["pods"].path, func(context.Context) (any, error) {
		attached, err := a.cni.Attached()
		return podViews(a.pool.Leases(), attached), err
	})
	api.Handle(frontendsPath, func(context.Context) (any, error) { return a.frontendViews() })
	api.Handle(recordsPath, func(context.Context) (any, error) { return a.recordNames(), nil })
	agentapi.Serve(api, connectionPath, func(ctx context.Context, r connectionRequest) (any, error) { return a.explainObjects(ctx, r) })
	a.registerDNSViews(api)
	a.registerPolicyViews(api)
	api.Handle(nouns["enis"].path, func(context.Context) (any, error) { return a.eniViews(), nil })
	api.Handle(nouns["pool"].path, func(context.Context) (any, error) { return a.poolView(), nil })
	api.Handle(nouns["ready"].path, func(context.Context) (any, error) { return readyView{Waiting: a.tasks.waiting()}, nil })
}

// podViews lists the leases. What has no record is wired as veth.
func podViews(leases []ipam.Lease, attached []cni.Attached) []podView {
	views := []podView{}
	for _, l := range leases {
		v := podView{
			Namespace: l.Pod.Namespace, Name: l.Pod.Name, Addresses: texts(l.Addrs), ENI: l.ENI.ID, ContainerID: l.Key.ContainerID,
			Datapath: string(cni.Veth), Path: pathSockets,
		}
		for _, r := range attached {
			if r.Key == cni.Key(l.Key) {
				v.Datapath, v.Ingress, v.Egress = string(r.Datapath), r.Limits.Ingress, r.Limits.Egress
				if r.ByPackets {
					v.Path = pathPackets
				}
			}
		}
		views = append(views, v)
	}
	slices.SortFunc(views, func(x, y podView) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return views
}

func (a *agent) eniViews() []eniView {
	views := []eniView{}
	for _, e := range a.pool.ENIs() {
		views = append(views, eniView{
			ID: e.ID, MAC: e.MAC, VSwitch: e.VSwitchID, State: fmt.Sprint(e.State), Exclusive: e.Exclusive, Slot: e.Slot,
			Queues: e.Queues, Pods: e.Pods, Addresses: texts(e.Addresses),
		})
	}
	return views
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

func (a *agent) poolView() poolView {
	s, c := a.pool.Stats(), a.pool.Capacity()
	x := s.Exclusive
	view := poolView{
		Capacity:  capacityView{c.Shared, c.Exclusive},
		Shared:    addressesView{s.Used, s.Kept, s.Idle, s.Cooling, s.Pending, s.Waiting},
		Exclusive: addressesView{x.Used, x.Kept, x.Idle, x.Cooling, x.Pending, x.Waiting},
		Unproven:  s.Unproven, Quarantine: s.Quarantined, ENIs: s.ENIs, VSwitches: []vSwitchView{}, Kept: []keptAddressView{},
	}
	for _, v := range a.pool.VSwitches() {
		one := vSwitchView{ID: v.ID, Zone: v.Zone, Free: v.Free, ENIs: v.ENIs, Breaker: string(v.Breaker), Until: v.Until}
		if v.Err != nil {
			one.Error = v.Err.Error()
		}
		view.VSwitches = append(view.VSwitches, one)
	}
	for _, k := range a.pool.Kept() {
		view.Kept = append(view.Kept, keptAddressView{k.Namespace + "/" + k.Name, k.Addr.String(), k.Until})
	}
	return view
}
