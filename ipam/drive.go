package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// refused says that the cloud has answered and done nothing, so that a plan can be dropped. A conflict counts as well:
// what may still come of the call carries our tag, and the next sync adopts it.
func refused(err error) bool {
	if errors.Is(err, aliyun.ErrThrottled) || errors.Is(err, aliyun.ErrUnavailable) {
		return false
	}
	for _, class := range []error{aliyun.ErrVSwitchFull, aliyun.ErrQuota, aliyun.ErrForbidden, aliyun.ErrNotFound, aliyun.ErrConflict} {
		if errors.Is(err, class) {
			return true
		}
	}
	var answer *aliyun.APIError
	return errors.As(err, &answer)
}

// drive takes one step of an ENI's life.
func (p *Pool) drive(ctx context.Context, token string) error {
	p.mu.Lock()
	found, ok := p.ledger.enis[token]
	if !ok {
		p.mu.Unlock()
		return nil
	}
	e, back := *found, p.ledger.releasingOn(token)
	p.mu.Unlock()
	switch e.State {
	case ENIIntent:
		return p.create(ctx, e)
	case ENICreated:
		return p.attach(ctx, e)
	case ENIInUse:
		return p.serve(ctx, e, back)
	case ENIDraining:
		return p.unwire(ctx, e)
	default:
		return p.poll(ctx, e)
	}
}

// create carries out an intent. Repeating it with the same token gives the same ENI for as long as the cloud remembers
// the token; an older intent is dropped, and if it was carried out after all, a sync finds the ENI by its tags.
func (p *Pool) create(ctx context.Context, e eni) error {
	if time.Since(e.Since) > intentMaxAge {
		p.resyncSoon()
		return p.moveENI(e.Token, eniGone)
	}
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		return err // the intent is not on disk
	}
	p.mu.Lock()
	groups := p.config.SecurityGroups
	if len(groups) == 0 {
		groups = p.node.SecurityGroups
	}
	p.mu.Unlock()
	made, err := p.config.Cloud.CreateENI(ctx, aliyun.CreateENI{
		VSwitchID: e.VSwitchID, SecurityGroupIDs: groups, SecondaryIPs: e.Count - 1, DeleteOnRelease: true,
		Tags: p.identity.tags(e.Token), Description: "pod addresses, made by nearpath", ClientToken: e.Token,
	})
	if err != nil {
		err = fmt.Errorf("create ENI with %d addresses in %s: %w", e.Count, e.VSwitchID, err)
		if refused(err) {
			return errors.Join(p.refuse(err, e.VSwitchID), p.moveENI(e.Token, eniGone))
		}
		return err
	}
	p.grew(e.VSwitchID)
	p.log.Info("ENI created", "eni", made.ID, "addresses", len(made.PrivateIPs))
	return p.update(func(l *ledger) error { return l.created(e.Token, made, time.Now()) })
}

func (p *Pool) attach(ctx context.Context, e eni) error {
	if err := p.moveENI(e.Token, ENIAttaching); err != nil {
		return err
	}
	return p.callAttach(ctx, e)
}

// callAttach leaves it to the next poll to see what came of the call.
func (p *Pool) callAttach(ctx context.Context, e eni) error {
	err := p.config.Cloud.AttachENI(ctx, e.ID, p.config.InstanceID)
	switch {
	case err == nil || errors.Is(err, aliyun.ErrConflict):
		return errNotYet
	case refused(err):
		err = fmt.Errorf("attach %s: %w", e.ID, err)
		return errors.Join(p.refuse(err, ""), p.moveENI(e.Token, ENIDetaching))
	default:
		return fmt.Errorf("attach %s: %w", e.ID, err)
	}
}

// serve wires an attached ENI, then gets or gives back addresses.
func (p *Pool) serve(ctx context.Context, e eni, back []netip.Addr) error {
	switch {
	case !e.wired:
		if err := p.config.Links.EnsureENI(ctx, e.lease()); err != nil {
			return fmt.Errorf("wire %s: %w", e.ID, err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if now := p.ledger.enis[e.Token]; now != nil && now.State == ENIInUse {
			now.wired = true
		}
		p.log.Info("ENI ready", "eni", e.ID, "slot", e.Slot)
		return nil
	case e.Assign != nil:
		return p.assign(ctx, e)
	case len(back) > 0:
		return p.giveBack(ctx, e, back)
	default:
		return nil
	}
}

func (p *Pool) assign(ctx context.Context, e eni) error {
	plan := *e.Assign
	if time.Since(plan.Since) > intentMaxAge {
		p.resyncSoon() // what may have come of it is adopted
		return p.update(func(l *ledger) error { return l.assigned(e.Token, nil, time.Now()) })
	}
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		return err // the plan is not on disk
	}
	addrs, err := p.config.Cloud.AssignIPs(ctx, aliyun.Assign{
		ENIID: e.ID, Family: aliyun.IPv4, Count: plan.Count, ClientToken: plan.Token,
	})
	if err != nil {
		err = fmt.Errorf("assign %d addresses to %s: %w", plan.Count, e.ID, err)
		if !refused(err) {
			return err
		}
		return errors.Join(p.refuse(err, e.VSwitchID), p.update(func(l *ledger) error { return l.assigned(e.Token, nil, time.Now()) }))
	}
	p.grew(e.VSwitchID)
	p.log.Debug("addresses assigned", "eni", e.ID, "addresses", len(addrs))
	return p.update(func(l *ledger) error { return l.assigned(e.Token, addrs, time.Now()) })
}

func (p *Pool) giveBack(ctx context.Context, e eni, addrs []netip.Addr) error {
	addrs = addrs[:min(len(addrs), unassignBatch)]
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		return err
	}
	if err := p.config.Cloud.UnassignIPs(ctx, e.ID, addrs); err != nil && !errors.Is(err, aliyun.ErrNotFound) {
		return fmt.Errorf("unassign %v from %s: %w", addrs, e.ID, err)
	}
	return p.update(func(l *ledger) error { return l.released(addrs, time.Now()) })
}

// unwire ends a drained ENI's use once nothing owns its addresses.
func (p *Pool) unwire(ctx context.Context, e eni) error {
	p.mu.Lock()
	owned := p.ledger.ownedOn(e.Token)
	p.mu.Unlock()
	if owned > 0 {
		return errNotYet
	}
	if err := p.config.Links.RemoveENI(ctx, e.lease()); err != nil {
		return fmt.Errorf("unwire %s: %w", e.ID, err)
	}
	return p.moveENI(e.Token, ENIDetaching)
}

// poll looks at an ENI that the cloud is working on and takes the next step if there is one.
func (p *Pool) poll(ctx context.Context, e eni) error {
	enis, err := p.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{IDs: []string{e.ID}})
	if err != nil {
		return fmt.Errorf("look at %s: %w", e.ID, err)
	}
	status := "" // not there
	if i := slices.IndexFunc(enis, func(shown aliyun.ENI) bool { return shown.ID == e.ID }); i >= 0 {
		status = enis[i].Status
	}
	switch e.State {
	case ENIAttaching:
		return p.pollAttaching(ctx, e, status)
	case ENIDetaching:
		return p.pollDetaching(ctx, e, status)
	default:
		return p.pollDeleting(ctx, e, status)
	}
}

func (p *Pool) pollAttaching(ctx context.Context, e eni, status string) error {
	age := time.Since(e.Since)
	switch {
	case status == aliyun.StatusInUse:
		p.log.Info("ENI attached", "eni", e.ID, "duration", age)
		return p.moveENI(e.Token, ENIInUse)
	case age > attachMaxAge:
		p.log.Warn("ENI does not attach, deleting it", "eni", e.ID, "status", status)
		return p.moveENI(e.Token, ENIDetaching)
	case status == aliyun.StatusAvailable && age > attachSettle:
		return p.callAttach(ctx, e)
	default:
		return errNotYet
	}
}

func (p *Pool) pollDetaching(ctx context.Context, e eni, status string) error {
	switch status {
	case "", aliyun.StatusAvailable, aliyun.StatusDeleting:
		return p.moveENI(e.Token, ENIDeleting)
	case aliyun.StatusInUse, aliyun.StatusAttaching:
		err := p.config.Cloud.DetachENI(ctx, e.ID, p.config.InstanceID)
		if err != nil && !errors.Is(err, aliyun.ErrConflict) && !errors.Is(err, aliyun.ErrNotFound) {
			return fmt.Errorf("detach %s: %w", e.ID, err)
		}
	}
	return errNotYet
}

func (p *Pool) pollDeleting(ctx context.Context, e eni, status string) error {
	switch status {
	case "":
		p.log.Info("ENI deleted", "eni", e.ID)
		return p.moveENI(e.Token, eniGone)
	case aliyun.StatusAvailable:
		err := p.config.Cloud.DeleteENI(ctx, e.ID)
		if err != nil && !errors.Is(err, aliyun.ErrConflict) && !errors.Is(err, aliyun.ErrNotFound) {
			return fmt.Errorf("delete %s: %w", e.ID, err)
		}
	}
	return errNotYet
}

func (p *Pool) moveENI(token string, to ENIState) error {
	return p.update(func(l *ledger) error { return l.moveENI(token, to, time.Now()) })
}

// refuse books a refusal where it holds back growing: on the vSwitch, if that is full, else on growing as such. It logs
// the error and returns nothing, because the step itself is over.
func (p *Pool) refuse(err error, vSwitchID string) error {
	p.log.Warn("cloud refused", "err", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, aliyun.ErrVSwitchFull) && vSwitchID != "" {
		l := cmp.Or(p.blocked[vSwitchID], &lane{})
		l.failures++
		l.notBefore = time.Now().Add(min(fullVSwitch<<min(l.failures-1, 10), maxFull))
		p.blocked[vSwitchID] = l
		return nil
	}
	p.lane(laneGrow).fail(err, maxBackoff)
	if errors.Is(err, aliyun.ErrConflict) {
		p.resync, p.again = time.Time{}, true // something may have come of it
	}
	return nil
}

func (p *Pool) resyncSoon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resync, p.again = time.Time{}, true
}

// grew ends what refusals had booked.
func (p *Pool) grew(vSwitchID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.blocked, vSwitchID)
	l := p.lane(laneGrow)
	l.failures, l.err, l.notBefore = 0, nil, time.Time{}
}

// resize carries out what the watermarks ask for, as plans in the journal that the ENIs' lanes then work off.
func (p *Pool) resize(ctx context.Context) error {
	p.mu.Lock()
	steps, _, _ := p.steps(time.Now())
	ids := p.config.VSwitches
	if len(ids) == 0 {
		ids = []string{p.node.VSwitchID}
	}
	p.mu.Unlock()
	var vSwitches []aliyun.VSwitch
	if slices.ContainsFunc(steps, func(g growth) bool { return g.eni == "" }) {
		var err error
		if vSwitches, err = p.config.Cloud.DescribeVSwitches(ctx, ids); err != nil {
			return fmt.Errorf("describe vSwitches %v: %w", ids, err)
		}
	}
	return p.update(func(l *ledger) error { return p.carryOut(l, vSwitches, ids) })
}

// steps runs under the lock. left is what no step serves.
func (p *Pool) steps(now time.Time) (steps []growth, left, shrink int) {
	grow, shrink := p.config.Watermarks.plan(p.ledger.demand(p.waiting))
	steps, left = p.ledger.spread(grow, p.isBlocked(now))
	return steps, left, shrink
}

func (p *Pool) isBlocked(now time.Time) func(string) bool {
	return func(id string) bool {
		l, ok := p.blocked[id]
		return ok && now.Before(l.notBefore)
	}
}

// carryOut runs under the lock; time has passed since the steps were first counted, so they are counted again.
func (p *Pool) carryOut(l *ledger, vSwitches []aliyun.VSwitch, ids []string) error {
	now := time.Now()
	steps, left, shrink := p.steps(now)
	if len(steps) == 0 && left > 0 {
		return fmt.Errorf("grow by %d: %w: ENIs with room are in blocked vSwitches and the limit of ENIs is reached", left, aliyun.ErrVSwitchFull)
	}
	if shrink > 0 {
		return l.release(l.victims(shrink, now, p.config.IdleReclaim), now)
	}
	for _, g := range steps {
		if g.eni != "" {
			if err := l.planAssign(g.eni, newToken(), g.count, now); err != nil {
				return err
			}
			continue
		}
		if len(vSwitches) == 0 {
			continue // the wish for an ENI is new; the next round asks for the vSwitches
		}
		v, ok := chooseVSwitch(vSwitches, p.node.ZoneID, p.isBlocked(now), l.promised())
		if !ok {
			return fmt.Errorf("grow by %d: %w: none of %v in zone %s", g.count, aliyun.ErrVSwitchFull, ids, p.node.ZoneID)
		}
		free := v.AvailableIPs - l.promised()[v.ID]
		if err := l.intend(newToken(), v, min(g.count, free), now); err != nil {
			return err
		}
	}
	return nil
}
