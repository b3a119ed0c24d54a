package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/agentapi"
)

// Paths of the syncer's API.
const (
	zoneStatusPath  = "/v1/zone/status"
	zonePlanPath    = "/v1/zone/plan"
	zoneRecordsPath = "/v1/zone/records"
	zoneExplainPath = "/v1/zone/explain"
	zoneAuditPath   = "/v1/zone/audit"
	zoneAdoptPath   = "/v1/zone/adopt"
	zoneHoldPath    = "/v1/zone/hold"
	zoneReleasePath = "/v1/zone/release"
)

// An explainRequest asks about a name.
type explainRequest struct {
	Name string `json:"name"`
}

// A holdRequest names a zone, by its ID or its name.
type holdRequest struct {
	Zone   string `json:"zone"`
	Reason string `json:"reason"`
}

// An adoptRequest says which records become ours.
type adoptRequest struct {
	ExternalDNS   string   `json:"externalDNS"`
	TXTPrefix     string   `json:"txtPrefix"`
	TXTSuffix     string   `json:"txtSuffix"`
	RemoveTXT     bool     `json:"removeTXT"`
	CloudProvider bool     `json:"cloudProvider"`
	Owner         string   `json:"owner"`
	Names         []string `json:"names"`
	Unwanted      bool     `json:"unwanted"`
	Apply         bool     `json:"apply"`
}

// registerZone adds the verbs of "nearpath zone" to the API.
func (p *publisher) registerZone(api *agentapi.Server) {
	api.Handle(zoneStatusPath, func(context.Context) (any, error) { return p.status(), nil })
	api.Handle(zonePlanPath, func(ctx context.Context) (any, error) {
		v, err := p.view(ctx)
		if err != nil {
			return nil, err
		}
		plan := viewPreview(v.Plan(p.feed.wants))
		plan.Problems = slices.Concat(viewAll(p.feed.wants.Problems(), viewProblem), plan.Problems)
		return plan, nil
	})
	api.Handle(zoneRecordsPath, func(ctx context.Context) (any, error) {
		v, err := p.view(ctx)
		if err != nil {
			return nil, err
		}
		return viewAll(v.Records(p.feed.wants), viewRow), nil
	})
	api.Handle(zoneAuditPath, func(ctx context.Context) (any, error) { return p.audit(ctx) })
	agentapi.Serve(api, zoneExplainPath, func(ctx context.Context, r explainRequest) (any, error) { return p.explain(ctx, r.Name) })
	agentapi.Serve(api, zoneAdoptPath, func(ctx context.Context, r adoptRequest) (any, error) { return p.adopt(ctx, r) })
	agentapi.Serve(api, zoneHoldPath, func(_ context.Context, r holdRequest) (any, error) {
		return p.command(r.Zone, func(id string) error { return p.syncer.Hold(id, r.Reason) })
	})
	agentapi.Serve(api, zoneReleasePath, func(_ context.Context, r holdRequest) (any, error) {
		return p.command(r.Zone, p.syncer.Release)
	})
}

func (p *publisher) status() zoneStatusView {
	v := viewStatus(p.syncer.Status())
	v.DryRun = p.cfg.DryRun
	v.Problems = slices.Concat(viewAll(p.feed.wants.Problems(), viewProblem), v.Problems)
	return v
}

// view is what the zones hold as the syncer knows it; one that does not lead, or has not listed them yet, asks.
func (p *publisher) view(ctx context.Context) (*externaldns.View, error) {
	st := p.syncer.Status()
	if !st.Synced {
		return nil, fmt.Errorf("objects are not known yet: %s is not ready", p.source)
	}
	notListed := func(z externaldns.ZoneStatus) bool { return !z.Listed }
	if st.Leading && st.Discovered && !slices.ContainsFunc(st.Zones, notListed) {
		return p.syncer.View(), nil
	}
	return p.load(ctx)
}

// load lists the zones.
func (p *publisher) load(ctx context.Context) (*externaldns.View, error) {
	if !p.syncer.Status().Synced {
		return nil, fmt.Errorf("objects are not known yet: %s is not ready", p.source)
	}
	cfg := p.cfg.syncer()
	v, err := externaldns.Load(ctx, p.cloud, cfg.Scope, cfg.Policy)
	if err != nil {
		return nil, err
	}
	v.Limits = cfg.Limits
	return v, nil
}

// explain needs only the name's own zone to be listed, where this replica leads.
func (p *publisher) explain(ctx context.Context, name string) (any, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	st := p.syncer.Status()
	e := p.syncer.Explain(name)
	if !st.Leading || !st.Discovered {
		v, err := p.load(ctx)
		if err != nil {
			return nil, err
		}
		state := e.State
		e = v.Explain(name, p.feed.wants)
		e.State = state
	}
	for _, z := range st.Zones {
		if z.ID == e.Place.ZoneID && !z.Listed { // what is there is not known, so neither is what to do
			e.Ops, e.State = nil, "the zone is not listed yet"
		}
	}
	for _, problem := range p.problemsOf(e) {
		if !slices.Contains(e.Problems, problem) {
			e.Problems = append(e.Problems, problem)
		}
	}
	return viewExplanation(e), nil
}

// problemsOf are those of objects that ask for the name, or speak of it: who asks in vain is not among the wants.
func (p *publisher) problemsOf(e externaldns.Explanation) (list []externaldns.Problem) {
	asks := map[externaldns.Object]bool{}
	for _, w := range e.Wants {
		asks[w.Object] = true
	}
	for _, problem := range p.feed.wants.Problems() {
		if asks[problem.Object] || strings.Contains(strings.ToLower(problem.Message), e.Name) {
			list = append(list, problem)
		}
	}
	return list
}

func (p *publisher) audit(ctx context.Context) (any, error) {
	v, err := p.load(ctx)
	if err != nil {
		return nil, err
	}
	report := viewReport(v.Audit(p.feed.wants))
	report.Problems = append(report.Problems, viewAll(p.feed.wants.Problems(), viewProblem)...)
	return report, nil
}

// adopt plans, and with Apply also writes, what makes records of others ours.
func (p *publisher) adopt(ctx context.Context, r adoptRequest) (any, error) {
	a, err := r.adoption()
	if err != nil {
		return nil, err
	}
	if r.Apply && p.cfg.DryRun {
		return nil, errors.New("the syncer runs with dryRun: true and writes nothing: adopt without --apply shows the plan")
	}
	if r.Apply && !p.syncer.Status().Leading {
		return nil, errors.New("another replica leads: ask that one to adopt, this one must not write")
	}
	v, err := p.load(ctx)
	if err != nil {
		return nil, err
	}
	plan := v.Adopt(p.feed.wants, a)
	view := adoptView{Applied: r.Apply, Writes: viewAll(plan.Ops, viewOp), Left: viewAll(plan.Left, viewRow)}
	if !r.Apply {
		return view, nil
	}
	i := 0
	// What fails is told by write; Execute's error is all of them together.
	_ = externaldns.Execute(ctx, p.cloud, plan.Ops, func(op externaldns.Op, err error) {
		if err != nil {
			view.Writes[i].Error = err.Error()
		}
		i++
		p.log.Info("record adopted", "op", op.String(), "err", err)
	})
	for ; i < len(view.Writes); i++ {
		view.Writes[i].Error = "not tried: the request ended"
	}
	return view, nil
}

func (r adoptRequest) adoption() (externaldns.Adoption, error) {
	a := externaldns.Adoption{
		ExternalDNS: r.ExternalDNS, Affix: externaldns.Affix{Prefix: r.TXTPrefix, Suffix: r.TXTSuffix}, RemoveTXT: r.RemoveTXT,
		CloudProvider: r.CloudProvider, Unwanted: r.Unwanted,
	}
	if r.Owner != "" {
		owner, err := externaldns.ParseOwner(r.Owner)
		if err != nil {
			return a, err
		}
		a.Owner = owner
	}
	for _, name := range r.Names {
		a.Names = append(a.Names, strings.ToLower(strings.TrimSuffix(name, ".")))
	}
	if a.ExternalDNS == "" && a.Owner == "" && !a.CloudProvider && len(a.Names) == 0 {
		return a, errors.New("nothing says whose records to adopt: use --external-dns OWNER, --cloud-provider, --owner ID or --name NAME")
	}
	return a, nil
}

// command does something to the zone of an ID or a name, and returns what there is then.
func (p *publisher) command(zone string, do func(id string) error) (any, error) {
	var ids []string
	for _, z := range p.syncer.Status().Zones {
		if z.ID == zone || z.Name == strings.ToLower(strings.TrimSuffix(zone, ".")) {
			ids = append(ids, z.ID)
		}
	}
	switch len(ids) {
	case 0:
		ids = []string{zone} // the syncer says what is wrong with it
	case 1:
	default:
		return nil, fmt.Errorf("zones %s are all named %s: use the ID", strings.Join(ids, ", "), zone)
	}
	if err := do(ids[0]); err != nil {
		return nil, err
	}
	return p.status(), nil
}
