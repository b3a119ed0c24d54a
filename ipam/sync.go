package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// learn asks the cloud about the instance.
func (p *Pool) learn(ctx context.Context) error {
	instance, err := p.config.Cloud.DescribeInstance(ctx, p.config.InstanceID)
	if err != nil {
		return fmt.Errorf("describe instance %s: %w", p.config.InstanceID, err)
	}
	kind, err := p.config.Cloud.DescribeInstanceType(ctx, instance.Type)
	if err != nil {
		return fmt.Errorf("describe instance type %s: %w", instance.Type, err)
	}
	if kind.ENIs < 2 || kind.AddressesPerENI < 1 {
		return fmt.Errorf("instance type %s allows %d ENIs with %d addresses each: pods need at least one beside the primary ENI",
			instance.Type, kind.ENIs, kind.AddressesPerENI)
	}
	if slices.Contains(p.config.Families, aliyun.IPv6) && kind.IPv6PerENI < 1 {
		return fmt.Errorf("instance type %s allows no IPv6 addresses: use another type, or IPv4 alone", instance.Type)
	}
	n := node{
		ZoneID: instance.ZoneID, VSwitchID: instance.VSwitchID, SecurityGroups: instance.SecurityGroupIDs,
		Limits: limits{ENIs: kind.ENIs - 1, AddressesPerENI: kind.AddressesPerENI, IPv6PerENI: kind.IPv6PerENI, QueuesPerENI: kind.QueuesPerENI},
	}
	p.mu.Lock()
	p.node, p.learned = n, true
	p.relimit()
	w := p.journal.enqueue([]change{{bucketMeta, metaNode, encode(n)}})
	p.mu.Unlock()
	return p.flush(w)
}

// settleAfter is how long callers wait for the first sync: a cloud that does not answer at all must not keep them from
// what the journal holds.
const settleAfter = 5 * time.Second

func (p *Pool) settleNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = true
	p.announce()
	p.kick()
}

// sync compares the ledger with the cloud.
func (p *Pool) sync(ctx context.Context) error {
	p.mu.Lock()
	p.again = false
	if !p.settled {
		defer time.AfterFunc(settleAfter, p.settleNow).Stop()
	}
	p.mu.Unlock()
	skipped, err := p.look(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = true
	if err != nil {
		return err
	}
	p.synced = true
	p.resync = time.Now().Add(syncEvery - rand.N(syncEvery/10))
	switch {
	case p.again:
		p.resync = time.Time{}
	case skipped > 0:
		p.resync = time.Now().Add(lookAgain)
	case p.ledger.doubtful():
		p.resync = time.Now().Add(secondLook)
	}
	return nil
}

func (p *Pool) look(ctx context.Context) (skipped int, err error) {
	o := observation{versions: map[string]int{}, started: time.Now()}
	p.mu.Lock()
	for token, e := range p.ledger.enis {
		if !p.atWork(token) {
			o.versions[token] = e.version
		}
	}
	p.mu.Unlock()
	if err := p.list(ctx, &o); err != nil {
		return 0, err
	}
	var found []finding
	var lost []LeaseENI
	err = p.update(func(l *ledger) error {
		o.unproven = p.config.InUse != nil || p.rebuild
		before := maps.Clone(l.enis)
		found, skipped = l.observe(o, p.identity(), time.Now())
		lost = p.lost(before)
		p.foreign = l.foreign(o.enis, p.config.InstanceID)
		p.relimit()
		return nil
	})
	for _, f := range found {
		p.log.Warn("pool and cloud differed", "what", f.what, "eni", f.eni, "ip", f.addr)
	}
	for _, e := range lost {
		if removeErr := p.config.Links.RemoveENI(ctx, e); removeErr != nil {
			p.log.Warn("ENI that is gone not unwired", "eni", e.ID, "err", removeErr)
		}
	}
	return skipped, err
}

// lost runs under the lock. It lists the ENIs that an observation has forgotten, and forgets their lanes.
func (p *Pool) lost(before map[string]*eni) (list []LeaseENI) {
	for token, e := range before {
		if p.ledger.enis[token] != nil {
			continue
		}
		for _, what := range lanesOfENI {
			delete(p.lanes, laneOf(token, what))
		}
		if e.ID != "" {
			list = append(list, e.lease())
		}
	}
	return list
}

// atWork runs under the lock.
func (p *Pool) atWork(token string) bool {
	return slices.ContainsFunc(lanesOfENI, func(what string) bool {
		l := p.lanes[laneOf(token, what)]
		return l != nil && l.busy
	})
}

// foreign counts the attached ENIs that take one of the instance's places and are not the pool's.
func (l *ledger) foreign(enis []aliyun.ENI, instanceID string) (n int) {
	for _, e := range enis {
		_, left := l.gone[e.ID]
		if e.Type != aliyun.TypePrimary && e.InstanceID == instanceID && l.eniByID(e.ID) == nil && !left {
			n++
		}
	}
	return n
}

// list asks for the ENIs of the instance, for ours that are attached nowhere, and for the vSwitches of unknown ones.
func (p *Pool) list(ctx context.Context, o *observation) error {
	attached, err := p.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{InstanceID: p.config.InstanceID})
	if err != nil {
		return fmt.Errorf("list ENIs of instance %s: %w", p.config.InstanceID, err)
	}
	isPrimary := func(e aliyun.ENI) bool { return e.Type == aliyun.TypePrimary }
	if !slices.ContainsFunc(attached, isPrimary) {
		return fmt.Errorf("list ENIs of instance %s: %w", p.config.InstanceID, errNoPrimary)
	}
	p.mu.Lock()
	id := p.identity()
	p.mu.Unlock()
	tags := map[string]string{tagOwner: id.owner, tagInstance: id.instanceID}
	tagged, err := p.config.Cloud.DescribeENIs(ctx, aliyun.ENIFilter{Tags: tags})
	if err != nil {
		return fmt.Errorf("list ENIs tagged for instance %s: %w", p.config.InstanceID, err)
	}
	known := map[string]bool{}
	for _, e := range append(attached, tagged...) {
		if !known[e.ID] {
			known[e.ID] = true
			o.enis = append(o.enis, e)
		}
	}
	o.vSwitches, err = p.strange(ctx, o.enis)
	return err
}

// strange describes the vSwitches of ENIs that are ours but not in the ledger.
func (p *Pool) strange(ctx context.Context, enis []aliyun.ENI) (map[string]aliyun.VSwitch, error) {
	var ids []string
	p.mu.Lock()
	for _, e := range enis {
		if p.identity().ours(e) && p.ledger.eniByID(e.ID) == nil && !slices.Contains(ids, e.VSwitchID) {
			ids = append(ids, e.VSwitchID)
		}
	}
	p.mu.Unlock()
	if len(ids) == 0 {
		return nil, nil
	}
	list, err := p.describeVSwitches(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("describe vSwitches of unknown ENIs: %w", err)
	}
	byID := map[string]aliyun.VSwitch{}
	for _, v := range list {
		byID[v.ID] = v
	}
	return byID, nil
}

func (p *Pool) describeVSwitches(ctx context.Context, ids []string) ([]aliyun.VSwitch, error) {
	list, err := p.config.Cloud.DescribeVSwitches(ctx, ids)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range list {
		p.described[v.ID] = describedVSwitch{v, time.Now()}
	}
	return list, nil
}

// prove asks what pods use and ends the doubt about adopted addresses.
func (p *Pool) prove(ctx context.Context) error {
	inUse, err := p.config.InUse(ctx)
	if err != nil {
		return fmt.Errorf("list the addresses that pods use: %w", err)
	}
	err = p.update(func(l *ledger) error {
		if doubtful := l.prove(inUse, time.Now()); len(doubtful) > 0 {
			return fmt.Errorf("%w: adopted addresses %v are in use by pods that have no key or another lease: they are not leased", errHeld, doubtful)
		}
		return nil
	})
	p.mu.Lock()
	rebuilt := p.rebuild && p.synced && err == nil
	p.mu.Unlock()
	if !rebuilt {
		return err
	}
	if err := p.flush(p.journal.enqueue([]change{{bucketMeta, metaRebuild, nil}})); err != nil {
		return errors.Join(errors.New("end the rebuild"), err)
	}
	p.mu.Lock()
	p.rebuild = false
	p.mu.Unlock()
	p.log.Info("what pods use is known again", "addresses", len(inUse))
	return nil
}
