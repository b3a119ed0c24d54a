package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
)

// registerViews adds the nouns of "nearpath get" to the API.
func (a *agent) registerViews(api *agentapi.Server) {
	api.Handle(nouns["pods"].path, func(context.Context) (any, error) { return a.podViews(), nil })
	api.Handle(nouns["services"].path, func(context.Context) (any, error) { return a.serviceViews() })
	api.Handle(nouns["enis"].path, func(context.Context) (any, error) { return a.eniViews(), nil })
	api.Handle(nouns["ready"].path, func(context.Context) (any, error) { return readyView{Waiting: a.tasks.waiting()}, nil })
}

func (a *agent) podViews() []podView {
	views := []podView{}
	for _, l := range a.pool.Leases() {
		views = append(views, podView{
			Namespace: l.Pod.Namespace, Name: l.Pod.Name, Address: l.Addrs[0].String(), ENI: l.ENI.ID, ContainerID: l.Key.ContainerID,
		})
	}
	slices.SortFunc(views, func(x, y podView) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return views
}

// serviceViews reads the kernel, not what the agent believes of it.
func (a *agent) serviceViews() ([]serviceView, error) {
	entries, err := a.datapath.Services.Entries()
	if err != nil {
		return nil, err
	}
	views := []serviceView{}
	for _, e := range entries {
		block, _ := a.datapath.Services.Block(e.Record)
		views = append(views, serviceView{
			Frontend: e.Frontend.Addr.String(), Protocol: fmt.Sprint(cluster.Protocol(e.Frontend.Protocol)), Record: e.Record,
			Backends: backendTexts(block), NodeDNS: block.NodeDNS,
		})
	}
	slices.SortFunc(views, func(x, y serviceView) int {
		return cmp.Or(cmp.Compare(x.Frontend, y.Frontend), cmp.Compare(x.Protocol, y.Protocol))
	})
	return views, nil
}

func (a *agent) eniViews() []eniView {
	views := []eniView{}
	for _, e := range a.pool.ENIs() {
		v := eniView{ID: e.ID, MAC: e.MAC, VSwitch: e.VSwitchID, State: fmt.Sprint(e.State), Slot: e.Slot, Addresses: []string{}}
		for _, addr := range e.Addresses {
			v.Addresses = append(v.Addresses, addr.String())
		}
		views = append(views, v)
	}
	return views
}
