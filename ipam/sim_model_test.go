package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/ipam"
)

// What the model knows of a pod's lease.
type holding int

const (
	absent  holding = iota // it has none
	asking                 // a call of Allocate is under way
	leased                 // it was told its lease
	unknown                // the process died, or the disk failed, before it was told
)

// A tenant is a pod as its runtime sees it.
type tenant struct {
	request ipam.Request
	state   holding
	before  holding // what it was when it asked
	lease   ipam.Lease
	asked   time.Time
}

// A rest is what is promised of an address that was given back.
type rest struct {
	key   ipam.Key // whose it was
	pod   ipam.Pod // for whose name it is kept; empty: nobody's
	kept  time.Time
	until time.Time // when it may be somebody else's at the earliest, or go back to the cloud
}

// A model is what callers were promised, against which the pool and the cloud are judged.
type model struct {
	mu       sync.Mutex // guards what follows
	tenants  []*tenant
	resting  map[netip.Addr]rest
	stolen   map[netip.Addr]bool // taken from the pool's ENIs by somebody else
	creating map[string]int      // requests for an ENI under way, by client token
	most     int                 // ENIs at any time
	limit    int                 // ENIs that the instance type allows the pool
	settings ipam.Settings
	links    *links
	land     *landscape
	broken   []error
	grants   []grant // in the order of their times
}

func (m *model) breach(format string, args ...any) {
	m.broken = append(m.broken, fmt.Errorf(format, args...))
}

// watch judges a request before the cloud sees it: the invariants hold at every moment, not only in the end.
func (m *model) watch(c call) (ended func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.judge(time.Now())
	if _, alien := m.land.alien[c.eniID]; alien && c.changes() {
		m.breach("%s of %s, which is somebody else's", c.action, c.eniID)
	}
	switch c.action {
	case "CreateNetworkInterface":
		m.creating[c.token]++
		m.count()
		return func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.creating[c.token]--; m.creating[c.token] == 0 {
				delete(m.creating, c.token)
			}
		}
	case "UnassignPrivateIpAddresses", "UnassignIpv6Addresses":
		m.mayGo(c, c.addrs)
	case "DetachNetworkInterface", "DeleteNetworkInterface":
		e := m.land.find(c.eniID)
		m.mayGo(c, slices.Concat(e.PrivateIPs, e.IPv6s))
	}
	return func() {}
}

// count is I7: the ENIs there are and those that are asked for are never more than the instance type allows. A repeated
// request for one that is there brings nothing new.
func (m *model) count() {
	there := m.land.ours()
	n := len(there)
	for token := range m.creating {
		if !slices.ContainsFunc(there, func(e aliyun.ENI) bool { return e.Tags["nearpath-intent"] == token }) {
			n++
		}
	}
	m.most = max(m.most, n)
	if n > m.limit {
		m.breach("I7: %d ENIs, of which %d are there, and %d are allowed", n, len(there), m.limit)
	}
}

// mayGo is I4: nothing that is leased, cools or is kept goes back.
func (m *model) mayGo(c call, addrs []netip.Addr) {
	for _, t := range m.tenants {
		if t.state != leased {
			continue
		}
		for _, addr := range t.lease.Addrs {
			if slices.Contains(addrs, addr) && !m.stolen[addr] {
				m.breach("I4: %s of %s, which %s has", c.action, addr, t.request.Key)
			}
		}
	}
	for _, addr := range addrs {
		if r, ok := m.resting[addr]; ok && time.Now().Before(r.until) && !m.stolen[addr] {
			m.breach("I4: %s of %s, which rests for %s", c.action, addr, time.Until(r.until))
		}
	}
}

// A grant is a lease that a caller was told of and that is not judged yet.
type grant struct {
	tenant *tenant
	lease  ipam.Lease
	asked  time.Time
	at     time.Time
}

// granted books a lease that a caller was told of.
func (m *model) granted(t *tenant, lease ipam.Lease, families []aliyun.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if isNew := t.before != unknown; isNew && !lease.Exclusive && !m.links.routed(lease.ENI.ID) {
		m.breach("%s got %s on %s, which the node does not route", lease.Key, lease.Addrs, lease.ENI.ID)
	}
	t.state, t.lease = leased, lease
	m.fits(t, lease, families)
	m.grants = append(m.grants, grant{t, lease, t.asked, time.Now()})
}

// judge looks at the leases granted before the given time, those of one moment together: callers learn of theirs in
// any order.
func (m *model) judge(before time.Time) {
	for len(m.grants) > 0 && m.grants[0].at.Before(before) {
		n := slices.IndexFunc(m.grants, func(g grant) bool { return !g.at.Equal(m.grants[0].at) })
		if n < 0 {
			n = len(m.grants)
		}
		for _, g := range m.grants[:n] {
			m.unkeep(g.tenant.request.Pod, g.asked)
		}
		for _, g := range m.grants[:n] {
			for _, addr := range g.lease.Addrs {
				m.fresh(g, addr)
				delete(m.resting, addr)
			}
		}
		m.grants = m.grants[n:]
	}
}

// now judges all of them; nothing may be under way.
func (m *model) now() { m.judge(time.Now().Add(time.Nanosecond)) }

func (m *model) fits(t *tenant, lease ipam.Lease, families []aliyun.Family) {
	var got []aliyun.Family
	for _, addr := range lease.Addrs {
		got = append(got, aliyun.FamilyOf(addr))
	}
	if lease.Key != t.request.Key || lease.Exclusive != t.request.Exclusive || !slices.Equal(got, families) {
		m.breach("%+v was answered with %+v", t.request, lease)
	}
}

// fresh is I1 and I8: the address is nobody's, and was nobody's for the time of the cooldown.
func (m *model) fresh(g grant, addr netip.Addr) {
	t := g.tenant
	for _, other := range m.tenants {
		if other != t && other.state == leased && slices.Contains(other.lease.Addrs, addr) {
			m.breach("I1: %s got %s, which %s has", t.request.Key, addr, other.request.Key)
		}
	}
	r, ok := m.resting[addr]
	if !ok || !g.at.Before(r.until) || r.key == t.request.Key || m.stolen[addr] {
		return
	}
	ownName := r.pod.Name != "" && r.pod.Name == t.request.Pod.Name
	isKept := r.pod.Name != "" && g.at.Before(r.kept)
	if !ownName && (isKept || !m.settings.ReuseCooling) {
		m.breach("I8: %s got %s, which rests for %s: %+v", t.request.Key, addr, r.until.Sub(g.at), r)
	}
}

func (m *model) cooldown() time.Duration { return m.settings.Cooldown }

// released books the end of a lease; it is called before the pool is.
func (m *model) released(t *tenant, keep time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now()
	now := time.Now()
	r := rest{key: t.request.Key, until: now.Add(m.cooldown())}
	if keep > 0 && t.request.Pod.Name != "" {
		m.unkeep(t.request.Pod, now) // the younger lease is the one to keep
		r.pod, r.kept = t.request.Pod, now.Add(keep)
		r.until = r.kept.Add(5 * time.Second) // the shortest cooldown there is
	}
	if t.state == leased {
		for _, addr := range t.lease.Addrs {
			m.resting[addr] = r
		}
	}
	if t.state == unknown {
		m.doubt(t, r)
	}
	t.state = unknown
}

// unkeep lets what was kept for a name cool, from the given time at the earliest. Somebody of the name may still be the one
// who got it.
func (m *model) unkeep(pod ipam.Pod, from time.Time) {
	for addr, r := range m.resting {
		if pod.Name != "" && r.pod.Name == pod.Name {
			r.until, r.kept = minTime(r.until, from.Add(m.cooldown())), minTime(r.kept, from)
			m.resting[addr] = r
		}
	}
}

// doubt is about a pod that may have had no lease, the one of before, or one that was kept for its name: each of them may
// have ended now.
func (m *model) doubt(t *tenant, now rest) {
	for addr, r := range m.resting {
		ownName := r.pod.Name != "" && r.pod.Name == t.request.Pod.Name
		if r.key != now.key && !ownName {
			continue
		}
		r.until, r.kept = minTime(r.until, now.until), minTime(r.kept, now.kept)
		if r.pod.Name == "" {
			r.pod = now.pod
		}
		m.resting[addr] = r
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// settle books the outcome of a call.
func (m *model) settle(t *tenant, state holding) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.state = state
	if state == unknown {
		m.unkeep(t.request.Pod, t.asked) // as a lease does
	}
	if state != unknown || !m.settings.ReuseCooling {
		return
	}
	for addr, r := range m.resting { // it may have got one that was cooling
		if r.pod.Name == "" {
			delete(m.resting, addr)
		}
	}
}

// check judges the pool and the cloud while nothing moves.
func (m *model) check(p *ipam.Pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now()
	m.count()
	m.broken = append(m.broken, m.land.checkAliens()...)
	byKey, byAddr := map[ipam.Key]ipam.Lease{}, map[netip.Addr]ipam.Key{}
	onENI := map[string][]ipam.Lease{}
	for _, l := range p.Leases() {
		byKey[l.Key] = l
		onENI[l.ENI.ID] = append(onENI[l.ENI.ID], l)
		for _, addr := range l.Addrs {
			if other, twice := byAddr[addr]; twice {
				m.breach("I1: %s has two owners, %s and %s", addr, l.Key, other)
			}
			byAddr[addr] = l.Key
		}
	}
	for id, leases := range onENI {
		if len(leases) > 1 && slices.ContainsFunc(leases, func(l ipam.Lease) bool { return l.Exclusive }) {
			m.breach("%s is one pod's alone and has %+v", id, leases)
		}
	}
	for _, k := range p.Kept() {
		if key, ok := byAddr[k.Addr]; ok {
			m.breach("I1: %s is kept for %s/%s, and %s has it", k.Addr, k.Namespace, k.Name, key)
		}
	}
	for _, t := range m.tenants {
		got, ok := byKey[t.request.Key]
		switch {
		case t.state == absent && ok:
			m.breach("%s has no lease, and the pool has %s for it", t.request.Key, got.Addrs)
		case t.state == leased && (!ok || !slices.Equal(got.Addrs, t.lease.Addrs)):
			m.breach("I6: %s was told %s, and the pool has %v %s", t.request.Key, t.lease.Addrs, ok, got.Addrs)
		}
		if t.state == leased {
			m.exists(t)
		}
	}
}

// exists is I3: what is leased is in the cloud, on the ENI of the lease, unless somebody else took it.
func (m *model) exists(t *tenant) {
	e := m.land.find(t.lease.ENI.ID)
	for _, addr := range t.lease.Addrs {
		if !slices.Contains(slices.Concat(e.PrivateIPs, e.IPv6s), addr) && !m.stolen[addr] {
			m.breach("I3: %s has %s, which is not on %s: %+v", t.request.Key, addr, t.lease.ENI.ID, e)
		}
	}
}

// known is I2: the pool knows the ENIs, and the addresses of its families on them. Those of before a sync are what the
// sync must have seen; what others took since is gone, and the cloud may have given it to another ENI of the pool.
func (m *model) known(p *ipam.Pool, before []aliyun.ENI, families []aliyun.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := map[netip.Addr]bool{}
	ids := map[string]bool{}
	for _, e := range p.ENIs() {
		ids[e.ID] = true
		for _, addr := range e.Addresses {
			has[addr] = true
		}
	}
	for _, e := range before {
		now := m.land.find(e.ID)
		if now.ID != "" && !ids[e.ID] {
			m.breach("I2: the pool does not know %s, which is %s", e.ID, now.Status)
		}
		for _, addr := range addrsOf(e, families) {
			if slices.Contains(addrsOf(now, families), addr) && !has[addr] && !m.stolen[addr] {
				m.breach("I2: the pool does not know %s on %s", addr, e.ID)
			}
		}
	}
}

func addrsOf(e aliyun.ENI, families []aliyun.Family) []netip.Addr {
	addrs := slices.Clone(e.PrivateIPs)
	if slices.Contains(families, aliyun.IPv6) {
		addrs = append(addrs, e.IPv6s...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// same is nothing lost, nothing leaked: pool and cloud have the same ENIs with the same addresses.
func (m *model) same(p *ipam.Pool, families []aliyun.Family) error {
	var errs []error
	have := map[string][]netip.Addr{}
	for _, e := range m.land.ours() {
		have[e.ID] = addrsOf(e, families)
	}
	for _, e := range p.ENIs() {
		if !slices.Equal(have[e.ID], e.Addresses) {
			errs = append(errs, fmt.Errorf("the pool has %v on %s (%s), the cloud %v", e.Addresses, e.ID, e.State, have[e.ID]))
		}
		delete(have, e.ID)
	}
	for id, addrs := range have {
		errs = append(errs, fmt.Errorf("the pool lacks %s with %v", id, addrs))
	}
	return errors.Join(errs...)
}
