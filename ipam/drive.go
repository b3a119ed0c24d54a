package ipam

import (
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

// live takes one step of an ENI's life, up to its use and from then on.
func (p *Pool) live(ctx context.Context, e eni) error {
	switch e.State {
	case ENIIntent:
		return p.create(ctx, e)
	case ENICreated:
		return p.attach(ctx, e)
	case ENIDraining:
		return p.unwire(ctx, e)
	default:
		return p.poll(ctx, e)
	}
}

// create carries out an intent. Repeating it with the same token gives the same ENI for as long as the cloud remembers
// the token. An older intent is left to what the cloud shows, like one whose outcome no call tells.
func (p *Pool) create(ctx context.Context, e eni) error {
	if time.Since(e.Since) > intentMaxAge {
		p.doubt(e.Token)
		p.unprobe(e.VSwitchID)
		return nil
	}
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		return err // the intent is not on disk
	}
	p.mu.Lock()
	request := aliyun.CreateENI{
		VSwitchID: e.VSwitchID, SecurityGroupIDs: p.groups(), SecondaryIPs: e.Wish.IPv4 - 1, IPv6s: e.Wish.IPv6,
		Tags: p.settings.newTags(p.identity().tags(e.Token)), ResourceGroupID: p.settings.ResourceGroupID, DeleteOnRelease: true,
		Description: "pod addresses, made by nearpath", ClientToken: e.Token,
	}
	p.mu.Unlock()
	made, err := p.config.Cloud.CreateENI(ctx, request)
	if err != nil {
		err = fmt.Errorf("create ENI with %d addresses in %s: %w", e.Wish.IPv4, e.VSwitchID, err)
		if refused(err) {
			return p.notCreated(e, err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if now := p.ledger.enis[e.Token]; now != nil && !errors.Is(err, aliyun.ErrThrottled) {
			now.unclear = true
		}
		return err
	}
	p.grew(e.VSwitchID)
	p.log.Info("ENI created", "eni", made.ID, "addresses", len(made.PrivateIPs), "exclusive", e.Purpose == exclusive)
	return p.update(func(l *ledger) error { return l.created(e.Token, made, time.Now()) })
}

// doubt leaves it to two looks at the cloud whether an intent was carried out. Until then it counts as an ENI.
func (p *Pool) doubt(token string) {
	p.resyncSoon()
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.ledger.enis[token]; e != nil && e.State == ENIIntent {
		e.doubt = true
	}
}

// notCreated drops an intent that was refused. When the vSwitch has too few addresses, half as many are intended in its
// place, down to one.
func (p *Pool) notCreated(e eni, cause error) error {
	p.notMade(cause, e.VSwitchID, e.Wish.IPv4)
	if e.unclear || errors.Is(cause, aliyun.ErrConflict) {
		p.doubt(e.Token)
		return nil
	}
	return p.update(func(l *ledger) error {
		now := time.Now()
		if err := l.moveENI(e.Token, eniGone, now); err != nil {
			return err
		}
		if half := e.Wish.IPv4 / 2; half > 0 && errors.Is(cause, aliyun.ErrVSwitchFull) && len(l.enis) < l.limits.ENIs {
			again := eni{Token: newToken(), State: ENIIntent, Purpose: e.Purpose, Since: now, VSwitchID: e.VSwitchID, Nets: e.Nets, Wish: l.wishFor(half)}
			l.enis[again.Token] = &again
			l.touchENI(&again)
		}
		return nil
	})
}

func (p *Pool) attach(ctx context.Context, e eni) error {
	if err := p.moveENI(e.Token, ENIAttaching); err != nil {
		return err
	}
	p.config.Links.ExpectENI(ctx, e.lease())
	return p.callAttach(ctx, e)
}

// callAttach leaves it to the next poll to see what came of the call.
func (p *Pool) callAttach(ctx context.Context, e eni) error {
	err := p.config.Cloud.AttachENI(ctx, e.ID, p.config.InstanceID)
	switch {
	case err == nil || errors.Is(err, aliyun.ErrConflict):
		return errNotYet
	case errors.Is(err, aliyun.ErrThrottled):
		// Nothing was begun, so nothing takes too long.
		return errors.Join(fmt.Errorf("attach %s: %w", e.ID, err), p.update(func(l *ledger) error { return l.restart(e.Token, time.Now()) }))
	case errors.Is(err, aliyun.ErrNotFound) && time.Since(e.Since) < secondLook:
		return errNotYet // the cloud does not show everywhere at once what it has made
	case refused(err):
		p.notMade(fmt.Errorf("attach %s: %w", e.ID, err), "", 0)
		return p.moveENI(e.Token, ENIDetaching)
	default:
		return fmt.Errorf("attach %s: %w", e.ID, err)
	}
}

// wire makes the node ready for leases on an attached ENI. An exclusive one that is leased is where its owner has put it.
func (p *Pool) wire(ctx context.Context, e eni) error {
	p.mu.Lock()
	leased := e.Purpose == exclusive && p.ledger.busyOn(e.Token) > 0
	p.mu.Unlock()
	var err error
	switch {
	case leased:
	case e.Purpose == exclusive:
		err = p.config.Links.RemoveENI(ctx, e.lease())
	default:
		err = p.config.Links.EnsureENI(ctx, e.lease())
	}
	if err != nil {
		return fmt.Errorf("wire %s: %w", e.ID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.ledger.enis[e.Token]; now != nil && now.State == ENIInUse && now.Purpose == e.Purpose {
		now.wired = true
	}
	p.log.Info("ENI ready", "eni", e.ID, "slot", e.Slot, "exclusive", e.Purpose == exclusive)
	return nil
}

func (p *Pool) assign(ctx context.Context, e eni, f aliyun.Family) error {
	plan := e.assigning(f)
	done := func(addrs []netip.Addr) error {
		return p.update(func(l *ledger) error { return l.assigned(e.Token, f, addrs, time.Now()) })
	}
	if plan.Count == 0 {
		return nil
	}
	if time.Since(plan.Since) > intentMaxAge {
		p.resyncSoon() // what may have come of it is adopted
		p.unprobe(e.VSwitchID)
		return done(nil)
	}
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		return err // the plan is not on disk
	}
	addrs, err := p.config.Cloud.AssignIPs(ctx, aliyun.Assign{ENIID: e.ID, Family: f, Count: plan.Count, ClientToken: plan.Token})
	if err != nil {
		err = fmt.Errorf("assign %d %v addresses to %s: %w", plan.Count, f, e.ID, err)
		if refused(err) {
			return p.notAssigned(e, plan, err)
		}
		return err
	}
	if f == aliyun.IPv4 {
		p.grew(e.VSwitchID)
	}
	p.log.Debug("addresses assigned", "eni", e.ID, "addresses", len(addrs))
	return done(addrs)
}

// notAssigned drops an assignment that was refused. When the vSwitch has too few addresses, half as many are planned in its
// place, down to one; after any other refusal the ENI gets no more of the family for a time.
func (p *Pool) notAssigned(e eni, plan assignment, cause error) error {
	isFull := errors.Is(cause, aliyun.ErrVSwitchFull)
	err := p.update(func(l *ledger) error {
		now := time.Now()
		if err := l.assigned(e.Token, plan.Family, nil, now); err != nil {
			return err
		}
		if half := plan.Count / 2; half > 0 && isFull {
			return l.planAssign(e.Token, newToken(), plan.Family, half, now)
		}
		if isFull && plan.Family == aliyun.IPv4 {
			p.full(e.VSwitchID, plan.Count, cause, now)
		} else {
			p.breakers.unprobe(e.VSwitchID)
		}
		return nil
	})
	if isFull && (plan.Count > 1 || plan.Family == aliyun.IPv4) {
		p.log.Warn("cloud refused", "err", cause)
		p.metrics.refused(cause)
		return err // a smaller call is planned, or the vSwitch's breaker says when to try again
	}
	p.resyncSoon() // the ENI may not be what the journal says
	return errors.Join(err, fmt.Errorf("%w: %w", errHeld, cause))
}

func (p *Pool) giveBack(ctx context.Context, e eni) error {
	p.mu.Lock()
	addrs := p.ledger.releasingOn(e.Token)
	p.mu.Unlock()
	addrs = addrs[:min(len(addrs), unassignBatch)]
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		return err
	}
	if err := p.config.Cloud.UnassignIPs(ctx, e.ID, addrs); err != nil && !errors.Is(err, aliyun.ErrNotFound) {
		return fmt.Errorf("unassign %v from %s: %w", addrs, e.ID, err)
	}
	return p.update(func(l *ledger) error { return l.released(addrs, time.Now()) })
}

// unwire ends a drained ENI's use, unless it is needed again meanwhile.
func (p *Pool) unwire(ctx context.Context, e eni) error {
	if err := p.config.Links.RemoveENI(ctx, e.lease()); err != nil {
		return fmt.Errorf("unwire %s: %w", e.ID, err)
	}
	return p.update(func(l *ledger) error {
		if now := l.enis[e.Token]; now == nil || now.State != ENIDraining {
			return nil
		}
		return l.moveENI(e.Token, ENIDetaching, time.Now())
	})
}

// repairs lists what of an ENI is not as it should be.
func (p *Pool) repairs(e *eni) (aliyun.ModifyENI, bool) {
	var m aliyun.ModifyENI
	if e.shown == nil || e.State != ENIInUse {
		return m, false
	}
	want, have := slices.Sorted(slices.Values(p.groups())), slices.Sorted(slices.Values(e.shown.groups))
	if len(want) > 0 && !slices.Equal(want, have) {
		m.SecurityGroupIDs = p.groups()
	}
	if !e.shown.deleteOnRelease {
		yes := true
		m.DeleteOnRelease = &yes
	}
	return m, m.DeleteOnRelease != nil || m.SecurityGroupIDs != nil
}

func (p *Pool) repair(ctx context.Context, e eni) error {
	p.mu.Lock()
	change, unlike := p.repairs(&e)
	p.mu.Unlock()
	if !unlike {
		return nil
	}
	if err := p.config.Cloud.ModifyENI(ctx, e.ID, change); err != nil {
		if err = fmt.Errorf("modify %s: %w", e.ID, err); refused(err) {
			return fmt.Errorf("%w: %w", errHeld, err)
		}
		return err
	}
	p.log.Info("ENI modified", "eni", e.ID, "groups", change.SecurityGroupIDs, "deleteOnRelease", change.DeleteOnRelease != nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.ledger.enis[e.Token]; now != nil {
		after := *e.shown
		if change.SecurityGroupIDs != nil {
			after.groups = change.SecurityGroupIDs
		}
		after.deleteOnRelease = true
		now.shown = &after
	}
	return nil
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
	p.mu.Lock()
	busy := p.ledger.busyOn(e.Token) > 0 // somebody detached it under its pods: it is attached again, however long that takes
	p.mu.Unlock()
	switch {
	case status == aliyun.StatusInUse:
		p.log.Info("ENI attached", "eni", e.ID, "duration", age)
		return p.moveENI(e.Token, ENIInUse)
	case age > attachMaxAge && !busy:
		p.log.Warn("ENI does not attach, deleting it", "eni", e.ID, "status", status)
		return p.moveENI(e.Token, ENIDetaching)
	case status == aliyun.StatusAvailable && age > attachSettle:
		return p.callAttach(ctx, e)
	default:
		return errNotYet
	}
}

// pollDetaching and pollDeleting believe that an ENI is not there when that is what must follow, or after a while: the
// cloud may be late to show what it has made, and an ENI forgotten too early is one more than allowed.
func (p *Pool) pollDetaching(ctx context.Context, e eni, status string) error {
	switch status {
	case "":
		if time.Since(e.Since) < secondLook {
			return errNotYet
		}
		return p.moveENI(e.Token, ENIDeleting)
	case aliyun.StatusAvailable, aliyun.StatusDeleting:
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
		if !e.ending && time.Since(e.Since) < secondLook {
			return errNotYet
		}
		p.log.Info("ENI deleted", "eni", e.ID)
		return p.moveENI(e.Token, eniGone)
	case aliyun.StatusDeleting:
		p.ending(e.Token)
	case aliyun.StatusAvailable:
		err := p.config.Cloud.DeleteENI(ctx, e.ID)
		if err != nil && !errors.Is(err, aliyun.ErrConflict) && !errors.Is(err, aliyun.ErrNotFound) {
			return fmt.Errorf("delete %s: %w", e.ID, err)
		}
		if err == nil {
			p.ending(e.Token)
		}
	}
	return errNotYet
}

// ending notes that the cloud has begun to delete the ENI.
func (p *Pool) ending(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.ledger.enis[token]; e != nil {
		e.ending = true
	}
}

// unprobe notes that the vSwitch has not answered what it was asked on trial.
func (p *Pool) unprobe(vSwitchID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.breakers.unprobe(vSwitchID)
}

func (p *Pool) moveENI(token string, to ENIState) error {
	return p.update(func(l *ledger) error { return l.moveENI(token, to, time.Now()) })
}
