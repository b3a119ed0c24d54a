package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const propertyCooldown = 30 * time.Second

var propertyIdentity = identity{owner: "me", instanceID: "i-1"}

// A ledgerMachine drives a ledger with random legal and illegal steps, beside a model of the cloud and of the disk.
type ledgerMachine struct {
	l     *ledger
	now   time.Time
	cloud map[string]*aliyun.ENI // by ID
	disk  map[string]change
	next  map[aliyun.Family]netip.Addr
	names int

	cooledAt map[netip.Addr]time.Time
	owners   map[Key][]netip.Addr
	kept     map[podName]keptModel
}

type keptModel struct {
	addrs []netip.Addr
	until time.Time
}

func newLedgerMachine(t *rapid.T) *ledgerMachine {
	m := &ledgerMachine{
		l: newLedger(aliyun.IPv4), now: time.Unix(1_700_000_000, 0).UTC(), cloud: map[string]*aliyun.ENI{}, disk: map[string]change{},
		next:     map[aliyun.Family]netip.Addr{aliyun.IPv4: netip.MustParseAddr("10.0.0.1"), aliyun.IPv6: netip.MustParseAddr("fd00::1")},
		cooledAt: map[netip.Addr]time.Time{}, owners: map[Key][]netip.Addr{}, kept: map[podName]keptModel{},
	}
	if rapid.Bool().Draw(t, "dual") {
		m.l.families = []aliyun.Family{aliyun.IPv4, aliyun.IPv6}
	}
	m.l.limits = limits{
		ENIs: rapid.IntRange(1, 3).Draw(t, "enis"), AddressesPerENI: rapid.IntRange(1, 6).Draw(t, "perENI"),
		IPv6PerENI: rapid.IntRange(1, 6).Draw(t, "ipv6PerENI"),
	}
	return m
}

func (m *ledgerMachine) addresses(f aliyun.Family, n int) (addrs []netip.Addr) {
	for range n {
		addrs = append(addrs, m.next[f])
		m.next[f] = m.next[f].Next()
	}
	return addrs
}

func (m *ledgerMachine) name(kind string) string {
	m.names++
	return fmt.Sprintf("%s-%d", kind, m.names)
}

// pick draws an ENI of the ledger, if there is one for which ok holds.
func (m *ledgerMachine) pick(rt *rapid.T, ok func(*eni) bool) *eni {
	var list []string
	for token, e := range m.l.enis {
		if ok(e) {
			list = append(list, token)
		}
	}
	if len(list) == 0 {
		rt.Skip("no such ENI")
	}
	slices.Sort(list)
	return m.l.enis[rapid.SampledFrom(list).Draw(rt, "eni")]
}

func in(state ENIState) func(*eni) bool { return func(e *eni) bool { return e.State == state } }

func (m *ledgerMachine) anyKey(t *rapid.T) Key {
	return Key{"net", fmt.Sprintf("c%d", rapid.IntRange(0, 12).Draw(t, "container")), "eth0"}
}

func (m *ledgerMachine) anyPurpose(t *rapid.T) purpose {
	return rapid.SampledFrom([]purpose{shared, shared, exclusive}).Draw(t, "purpose")
}

func (m *ledgerMachine) Wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
	m.expire()
}

func (m *ledgerMachine) expire() {
	m.l.expire(m.now, propertyCooldown, nil)
	for name, k := range m.kept {
		if !m.now.Before(k.until) {
			m.cooled(k.addrs)
			delete(m.kept, name)
		}
	}
}

func (m *ledgerMachine) cooled(addrs []netip.Addr) {
	for _, addr := range addrs {
		m.cooledAt[addr] = m.now
	}
}

func (m *ledgerMachine) Intend(t *rapid.T) {
	v := aliyun.VSwitch{ID: "vsw", CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	count, use := rapid.IntRange(0, 7).Draw(t, "count"), m.anyPurpose(t)
	err := m.l.intend(m.name("token"), v, count, use, m.now)
	if legal := count >= 1 && count <= m.l.perENI() && (use == shared || count == 1); err == nil && !legal {
		t.Fatalf("an ENI with %d addresses was planned", count)
	}
}

// Create carries out an intent, and the answer may be lost.
func (m *ledgerMachine) Create(t *rapid.T) {
	e := m.pick(t, in(ENIIntent))
	made := &aliyun.ENI{ID: m.name("eni"), Type: aliyun.TypeSecondary, Status: aliyun.StatusAvailable, VSwitchID: "vsw", Tags: propertyIdentity.tags(e.Token)}
	made.PrivateIPs, made.IPv6s = m.addresses(aliyun.IPv4, e.Wish.IPv4), m.addresses(aliyun.IPv6, e.Wish.IPv6)
	made.PrimaryIP = made.PrivateIPs[0]
	m.cloud[made.ID] = made
	if rapid.Bool().Draw(t, "answered") {
		must(t, m.l.created(e.Token, *made, m.now))
		return
	}
	m.Sync(t)
}

func (m *ledgerMachine) Attach(t *rapid.T) {
	e := m.pick(t, in(ENICreated))
	must(t, m.l.moveENI(e.Token, ENIAttaching, m.now))
	if shown := m.cloud[e.ID]; shown != nil {
		shown.Status, shown.InstanceID = aliyun.StatusInUse, "i-1"
	}
}

func (m *ledgerMachine) Attached(t *rapid.T) {
	e := m.pick(t, in(ENIAttaching))
	must(t, m.l.moveENI(e.Token, ENIInUse, m.now))
}

func (m *ledgerMachine) Wire(t *rapid.T) { m.pick(t, in(ENIInUse)).wired = true }

// Assign plans and carries out more addresses; the answer may be lost, refused or given.
func (m *ledgerMachine) Assign(t *rapid.T) {
	e, f := m.pick(t, in(ENIInUse)), rapid.SampledFrom(m.l.families).Draw(t, "family")
	count := rapid.IntRange(1, 4).Draw(t, "count")
	room, inFlight := m.l.room(e, f), e.assigning(f).Count > 0
	if err := m.l.planAssign(e.Token, m.name("token"), f, count, m.now); err != nil {
		if !inFlight && count <= room {
			t.Fatal(err)
		}
		return
	}
	m.flush()
	if rapid.IntRange(0, 3).Draw(t, "later") == 0 {
		return // the call is in flight for the rest of the run, or until Assigned
	}
	m.assigned(t, e, f)
}

// Assigned ends a call in flight.
func (m *ledgerMachine) Assigned(t *rapid.T) {
	e := m.pick(t, func(e *eni) bool { return e.State == ENIInUse && len(e.Assigns) > 0 })
	m.assigned(t, e, rapid.SampledFrom(e.Assigns).Draw(t, "call").Family)
}

func (m *ledgerMachine) assigned(t *rapid.T, e *eni, f aliyun.Family) {
	var addrs []netip.Addr
	if shown := m.cloud[e.ID]; shown != nil && rapid.Bool().Draw(t, "done") {
		addrs = m.addresses(f, e.assigning(f).Count)
		if f == aliyun.IPv4 {
			shown.PrivateIPs = append(shown.PrivateIPs, addrs...)
		} else {
			shown.IPv6s = append(shown.IPv6s, addrs...)
		}
	}
	must(t, m.l.assigned(e.Token, f, addrs, m.now))
}

// Lease reserves for a pod, whose name may have addresses kept for it, and confirms or cancels.
func (m *ledgerMachine) Lease(t *rapid.T) {
	r := Request{Key: m.anyKey(t), Pod: m.anyPod(t), Exclusive: m.anyPurpose(t) == exclusive}
	had := len(m.l.owned(r.Key)) > 0
	reuse := rapid.IntRange(0, 4).Draw(t, "reuse") == 0
	err := m.l.reserve(r, rules{BalanceQueues, reuse}, m.now, propertyCooldown)
	switch {
	case had && err == nil:
		t.Fatalf("%s got a second address", r.Key)
	case err != nil:
		return
	}
	if rapid.IntRange(0, 9).Draw(t, "journal") == 0 {
		must(t, m.l.cancel(r.Key, m.now))
		if left, had := m.kept[r.Pod.name()]; had && len(m.l.byName[r.Pod.name()]) == 0 {
			m.cooled(left.addrs) // kept on another kind of ENI, so no longer
			delete(m.kept, r.Pod.name())
		}
		return
	}
	addrs := slices.Clone(m.l.byKey[r.Key])
	m.checkLease(t, r, addrs, reuse)
	m.flush()
	must(t, m.l.confirm(r.Key, m.now))
	m.owners[r.Key] = addrs
}

func (m *ledgerMachine) checkLease(t *rapid.T, r Request, addrs []netip.Addr, reuse bool) {
	if len(addrs) != len(m.l.families) {
		t.Fatalf("%s got %v for the families %v", r.Key, addrs, m.l.families)
	}
	e := m.l.enis[m.l.addrs[addrs[0]].ENI]
	if !e.usable() || e.Purpose != purposeOf(r.Exclusive) {
		t.Fatalf("%v leased from an ENI that is %s, wired %v, %q", addrs, e.State, e.wired, e.Purpose)
	}
	mine := m.kept[r.Pod.name()]
	for i, addr := range addrs {
		a := m.l.addrs[addr]
		if a.ENI != e.Token || aliyun.FamilyOf(addr) != m.l.families[i] {
			t.Fatalf("%v are on several ENIs or of one family", addrs)
		}
		if cooled, ok := m.cooledAt[addr]; ok && m.now.Sub(cooled) < propertyCooldown && !reuse {
			t.Fatalf("%s leased %s after its release", addr, m.now.Sub(cooled))
		}
		for name, k := range m.kept {
			if name != r.Pod.name() && slices.Contains(k.addrs, addr) {
				t.Fatalf("%s is kept for %v", addr, name)
			}
		}
		delete(m.cooledAt, addr)
	}
	for other, theirs := range m.owners {
		shareENI := m.l.addrs[theirs[0]].ENI == e.Token && e.Purpose == exclusive
		if slices.ContainsFunc(theirs, func(a netip.Addr) bool { return slices.Contains(addrs, a) }) || shareENI {
			t.Fatalf("%v belong to %s already, or its ENI does", addrs, other)
		}
	}
	if len(mine.addrs) > 0 && !slices.Equal(mine.addrs, addrs) {
		m.cooled(mine.addrs) // of another kind, or not there any more
	}
	delete(m.kept, r.Pod.name())
}

func (m *ledgerMachine) anyPod(t *rapid.T) Pod {
	return rapid.SampledFrom([]Pod{{}, {}, {Namespace: "ns", Name: "web-0", UID: "1"}, {Namespace: "ns", Name: "web-1"}}).Draw(t, "pod")
}

// Release ends a lease, for good or with its addresses kept.
func (m *ledgerMachine) Release(t *rapid.T) {
	k := m.anyKey(t)
	keep := time.Duration(rapid.SampledFrom([]int{0, 0, 20, 60}).Draw(t, "keep")) * time.Second
	var pod Pod
	if list := m.l.owned(k); len(list) > 0 {
		pod = list[0].Pod
	}
	had, err := m.l.end(k, term{keep, propertyCooldown}, m.now)
	must(t, err)
	addrs, owned := m.owners[k]
	if had != owned {
		t.Fatalf("release of %s: had %v, owned %v", k, had, owned)
	}
	if !owned {
		return
	}
	delete(m.owners, k)
	if keep == 0 || pod.Name == "" {
		m.cooled(addrs)
		return
	}
	m.cooled(m.kept[pod.name()].addrs)
	m.kept[pod.name()] = keptModel{addrs: addrs, until: m.now.Add(keep)}
}

// GiveBack returns free addresses, and the answer may be lost.
func (m *ledgerMachine) GiveBack(t *rapid.T) {
	victims := m.l.victims(rapid.IntRange(1, 3).Draw(t, "n"), func(*address) bool { return true })
	must(t, m.l.release(victims, m.now))
	for _, addr := range victims {
		if shown := m.cloud[m.l.enis[m.l.addrs[addr].ENI].ID]; shown != nil {
			same := func(a netip.Addr) bool { return a == addr }
			shown.PrivateIPs, shown.IPv6s = slices.DeleteFunc(shown.PrivateIPs, same), slices.DeleteFunc(shown.IPv6s, same)
		}
	}
	if rapid.Bool().Draw(t, "answered") {
		must(t, m.l.released(victims, m.now))
	}
}

// Convert changes what an idle ENI is for, and Drain and Revive whether it stays.
func (m *ledgerMachine) Convert(t *rapid.T) {
	e, use := m.pick(t, in(ENIInUse)), m.anyPurpose(t)
	legal := e.Purpose != use && m.l.idle(e)
	if err := m.l.convert(e.Token, use); (err == nil) != legal {
		t.Fatalf("convert %s to %q, legal %v: %v", e.name(), use, legal, err)
	}
}

func (m *ledgerMachine) Drain(t *rapid.T) {
	e := m.pick(t, in(ENIInUse))
	legal := m.l.idle(e)
	if err := m.l.moveENI(e.Token, ENIDraining, m.now); (err == nil) != legal {
		t.Fatalf("drain %s, idle %v: %v", e.name(), legal, err)
	}
}

func (m *ledgerMachine) Revive(t *rapid.T) {
	must(t, m.l.moveENI(m.pick(t, in(ENIDraining)).Token, ENIInUse, m.now))
}

func (m *ledgerMachine) Delete(t *rapid.T) {
	e := m.pick(t, in(ENIDraining))
	for _, to := range []ENIState{ENIDetaching, ENIDeleting, eniGone} {
		must(t, m.l.moveENI(e.Token, to, m.now))
	}
	delete(m.cloud, e.ID)
}

// Illegal moves must be refused without a change.
func (m *ledgerMachine) Illegal(rt *rapid.T) {
	e := m.pick(rt, func(*eni) bool { return true })
	to := rapid.SampledFrom([]ENIState{ENIIntent, ENICreated, ENIAttaching, ENIInUse, ENIDraining, ENIDetaching, ENIDeleting, eniGone}).Draw(rt, "to")
	if slices.Contains(eniMoves[e.State], to) && m.l.busyOn(e.Token) == 0 {
		rt.Skip("legal")
	}
	if to == ENICreated || to == ENIDraining || to == ENIInUse || to == ENIAttaching {
		if slices.Contains(eniMoves[e.State], to) {
			rt.Skip("legal")
		}
	}
	before := *e
	if err := m.l.moveENI(e.Token, to, m.now); err == nil {
		rt.Fatalf("%s -> %s with %d owned was allowed", before.State, to, m.l.busyOn(e.Token))
	}
	if diff := cmp.Diff(before, *e, equateAddrs, cmpopts.IgnoreUnexported(eni{})); diff != "" {
		rt.Fatal(diff)
	}
}

// Steal takes an address from an ENI behind the pool's back.
func (m *ledgerMachine) Steal(t *rapid.T) {
	e := m.pick(t, in(ENIInUse))
	if shown := m.cloud[e.ID]; shown != nil && len(shown.PrivateIPs) > 1 {
		shown.PrivateIPs = shown.PrivateIPs[:len(shown.PrivateIPs)-1] // never the primary one
	}
}

func (m *ledgerMachine) Sync(*rapid.T) {
	o := observation{versions: map[string]int{}, started: m.now, vSwitches: map[string]aliyun.VSwitch{"vsw": {ID: "vsw"}}}
	for token, e := range m.l.enis {
		o.versions[token] = e.version
	}
	for _, e := range m.cloud {
		shown := *e
		shown.PrivateIPs, shown.IPv6s = slices.Clone(e.PrivateIPs), slices.Clone(e.IPv6s)
		o.enis = append(o.enis, shown)
	}
	m.l.observe(o, propertyIdentity, m.now)
}

func (m *ledgerMachine) flush() {
	for _, c := range m.l.changes() {
		if c.value == nil {
			delete(m.disk, c.bucket+c.key)
		} else {
			m.disk[c.bucket+c.key] = c
		}
	}
}

// Check holds the invariants after every step.
func (m *ledgerMachine) Check(t *rapid.T) {
	m.flush()
	if len(m.l.enis) > m.l.limits.ENIs {
		t.Fatalf("%d ENIs of %d", len(m.l.enis), m.l.limits.ENIs)
	}
	slots := map[int]bool{}
	for _, e := range m.l.enis {
		for _, f := range m.l.families {
			if n := m.l.count(e, f) + e.awaited(f); n > m.l.perENI() {
				t.Fatalf("%s has or awaits %d %v addresses of %d", e.name(), n, f, m.l.perENI())
			}
		}
		if e.ID != "" && (e.Slot < 1 || slots[e.Slot]) {
			t.Fatalf("slot %d of %s is taken or invalid", e.Slot, e.name())
		}
		slots[e.Slot] = true
	}
	owned, keptBy := map[Key][]netip.Addr{}, map[podName][]netip.Addr{}
	for addr, a := range m.l.addrs {
		if a.owned() {
			owned[a.Key] = sorted(append(owned[a.Key], addr))
		} else if a.State == kept {
			keptBy[a.Pod.name()] = sorted(append(keptBy[a.Pod.name()], addr))
		}
		if !a.owned() && a.Key != (Key{}) {
			t.Fatalf("%s is %s and has the owner %s", addr, a.State, a.Key)
		}
	}
	if diff := cmp.Diff(owned, m.l.byKey, equateAddrs); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(m.owners, m.l.byKey, equateAddrs); diff != "" {
		t.Fatal("leases were lost or invented:\n", diff)
	}
	if diff := cmp.Diff(keptBy, m.l.byName, equateAddrs, cmp.AllowUnexported(podName{})); diff != "" {
		t.Fatal("what is kept is not found by name:\n", diff)
	}
	for name, k := range m.kept {
		if !slices.Equal(sorted(slices.Clone(k.addrs)), m.l.byName[name]) {
			t.Fatalf("%v are kept for %v and should be %v", m.l.byName[name], name, k.addrs)
		}
	}
	m.checkDisk(t)
}

// checkDisk replays what was journalled: it gives the ledger that is in memory.
func (m *ledgerMachine) checkDisk(t *rapid.T) {
	replayed := newLedger(m.l.families...)
	for _, c := range m.disk {
		if c.bucket == bucketENIs {
			e, err := decodeENI(c.value)
			must(t, err)
			replayed.enis[e.Token] = &e
		}
	}
	for _, c := range m.disk {
		if c.bucket == bucketAddresses {
			var a address
			must(t, decode(c.value, &a))
			replayed.restore(a, propertyCooldown)
		}
	}
	sinceIsNoMatter := cmp.Options{cmpopts.IgnoreUnexported(eni{}, address{}), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(address{}, "Since"), equateAddrs}
	if diff := cmp.Diff(m.l.addrs, replayed.addrs, sinceIsNoMatter); diff != "" {
		t.Fatal("addresses differ after replay:\n", diff)
	}
	if diff := cmp.Diff(m.l.enis, replayed.enis, sinceIsNoMatter); diff != "" {
		t.Fatal("ENIs differ after replay:\n", diff)
	}
}

func must(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLedgerInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newLedgerMachine(t)
		t.Repeat(rapid.StateMachineActions(m))
		// Two looks later the journal and the cloud hold the same.
		m.Sync(t)
		for range 3 {
			m.now = m.now.Add(time.Minute)
			m.expire()
		}
		for range 3 {
			m.now = m.now.Add(secondLook)
			m.Sync(t)
		}
		m.Check(t)
		for _, e := range m.cloud {
			known := m.l.eniByID(e.ID)
			if known == nil {
				t.Fatalf("%s is in the cloud and not in the journal", e.ID)
			}
			for _, addr := range m.l.wanted(*e) {
				if m.l.addrs[addr] == nil {
					t.Fatalf("%s is in the cloud and not in the journal", addr)
				}
			}
		}
		for addr, a := range m.l.addrs {
			shown := m.cloud[m.l.enis[a.ENI].ID]
			if !a.owned() && (shown == nil || !slices.Contains(m.l.wanted(*shown), addr)) {
				t.Fatalf("%s is %s in the journal and not in the cloud", addr, a.State)
			}
		}
	})
}

func TestRestoreResolvesTwoRecordsOfOneKey(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	old, young := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for _, order := range [][]netip.Addr{{old, young}, {young, old}} {
		l := newLedger(aliyun.IPv4)
		for _, addr := range order {
			since := now
			if addr == young {
				since = now.Add(time.Second)
			}
			l.restore(address{Addr: addr, State: assigned, Key: key(1), Since: since}, time.Minute)
		}
		if !slices.Equal(l.byKey[key(1)], []netip.Addr{young}) || l.addrs[old].State != cooling {
			t.Errorf("order %v: owner %s, the old one is %s", order, l.byKey[key(1)], l.addrs[old].State)
		}
	}
}

func TestGateway(t *testing.T) {
	for cidr, want := range map[string]string{
		"10.0.1.0/24": "10.0.1.253", "192.168.0.0/16": "192.168.255.253", "172.16.4.0/29": "172.16.4.5", "10.0.1.128/25": "10.0.1.253",
	} {
		if got := gateway(netip.MustParsePrefix(cidr)); got.String() != want {
			t.Errorf("gateway of %s is %s, want %s", cidr, got, want)
		}
	}
}
