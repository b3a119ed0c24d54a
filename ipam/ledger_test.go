package ipam

import (
	"encoding/json"
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

// A ledgerMachine drives a ledger with random legal and illegal steps, beside a model of the cloud and of the disk.
type ledgerMachine struct {
	l     *ledger
	now   time.Time
	cloud map[string]*aliyun.ENI // by ID
	disk  map[string]change
	next  netip.Addr
	names int

	cooledAt map[netip.Addr]time.Time
	owners   map[Key]netip.Addr
}

func newLedgerMachine(t *rapid.T) *ledgerMachine {
	m := &ledgerMachine{
		l: newLedger(), now: time.Unix(1_700_000_000, 0).UTC(), cloud: map[string]*aliyun.ENI{}, disk: map[string]change{},
		next: netip.MustParseAddr("10.0.0.1"), cooledAt: map[netip.Addr]time.Time{}, owners: map[Key]netip.Addr{},
	}
	m.l.limits = limits{ENIs: rapid.IntRange(1, 3).Draw(t, "enis"), AddressesPerENI: rapid.IntRange(1, 6).Draw(t, "perENI")}
	return m
}

func (m *ledgerMachine) address() netip.Addr {
	addr := m.next
	m.next = m.next.Next()
	return addr
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

func (m *ledgerMachine) Wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
	m.l.expire(m.now)
}

func (m *ledgerMachine) Intend(t *rapid.T) {
	v := aliyun.VSwitch{ID: "vsw", CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	count := rapid.IntRange(0, 7).Draw(t, "count")
	err := m.l.intend(m.name("token"), v, count, m.now)
	if legal := count >= 1 && count <= m.l.limits.AddressesPerENI; err == nil && !legal {
		t.Fatalf("an ENI with %d addresses was planned", count)
	}
}

// Create carries out an intent, and the answer may be lost.
func (m *ledgerMachine) Create(t *rapid.T) {
	e := m.pick(t, in(ENIIntent))
	made := &aliyun.ENI{ID: m.name("eni"), Type: aliyun.TypeSecondary, Status: aliyun.StatusAvailable, VSwitchID: "vsw", Tags: identity{"me", "i-1"}.tags(e.Token)}
	for range e.Count {
		made.PrivateIPs = append(made.PrivateIPs, m.address())
	}
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
	e := m.pick(t, in(ENIInUse))
	count := rapid.IntRange(1, 4).Draw(t, "count")
	room := m.l.room(e)
	if err := m.l.planAssign(e.Token, m.name("token"), count, m.now); err != nil {
		if e.Assign == nil && count <= room {
			t.Fatal(err)
		}
		return
	}
	m.flush()
	var addrs []netip.Addr
	if rapid.Bool().Draw(t, "done") && m.cloud[e.ID] != nil {
		for range count {
			addrs = append(addrs, m.address())
		}
		m.cloud[e.ID].PrivateIPs = append(m.cloud[e.ID].PrivateIPs, addrs...)
	}
	must(t, m.l.assigned(e.Token, addrs, m.now))
}

func (m *ledgerMachine) Lease(t *rapid.T) {
	k := m.anyKey(t)
	had := m.l.owner(k)
	a, err := m.l.reserve(k, Pod{}, m.now)
	switch {
	case had != nil && err == nil:
		t.Fatalf("%s got a second address", k)
	case err != nil:
		return
	}
	if e := m.l.enis[a.ENI]; e.State != ENIInUse || !e.wired {
		t.Fatalf("%s leased from an ENI that is %s, wired %v", a.Addr, e.State, e.wired)
	}
	if cooled, ok := m.cooledAt[a.Addr]; ok && m.now.Sub(cooled) < propertyCooldown {
		t.Fatalf("%s leased %s after its release", a.Addr, m.now.Sub(cooled))
	}
	for other, addr := range m.owners {
		if addr == a.Addr {
			t.Fatalf("%s belongs to %s already", addr, other)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "journal") == 0 {
		must(t, m.l.cancel(a.Addr, m.now))
		return
	}
	m.flush()
	must(t, m.l.confirm(a.Addr, m.now))
	m.owners[k] = a.Addr
}

func (m *ledgerMachine) Release(t *rapid.T) {
	k := m.anyKey(t)
	had, err := m.l.cool(k, m.now, propertyCooldown)
	must(t, err)
	addr, owned := m.owners[k]
	if had != owned {
		t.Fatalf("release of %s: had %v, owned %v", k, had, owned)
	}
	if owned {
		m.cooledAt[addr] = m.now
		delete(m.owners, k)
	}
}

// GiveBack returns free addresses, and the answer may be lost.
func (m *ledgerMachine) GiveBack(t *rapid.T) {
	victims := m.l.victims(rapid.IntRange(1, 3).Draw(t, "n"), m.now, 0)
	must(t, m.l.release(victims, m.now))
	for _, addr := range victims {
		if shown := m.cloud[m.l.enis[m.l.addrs[addr].ENI].ID]; shown != nil {
			shown.PrivateIPs = slices.DeleteFunc(shown.PrivateIPs, func(a netip.Addr) bool { return a == addr })
		}
	}
	if rapid.Bool().Draw(t, "answered") {
		must(t, m.l.released(victims, m.now))
	}
}

// Illegal moves must be refused without a change.
func (m *ledgerMachine) Illegal(rt *rapid.T) {
	e := m.pick(rt, func(*eni) bool { return true })
	to := rapid.SampledFrom([]ENIState{ENIIntent, ENICreated, ENIAttaching, ENIInUse, ENIDraining, ENIDetaching, ENIDeleting, eniGone}).Draw(rt, "to")
	if slices.Contains(eniMoves[e.State], to) && m.l.ownedOn(e.Token) == 0 {
		rt.Skip("legal")
	}
	if to == ENICreated || to == ENIDraining || to == ENIInUse || to == ENIAttaching {
		if slices.Contains(eniMoves[e.State], to) {
			rt.Skip("legal")
		}
	}
	before := *e
	if err := m.l.moveENI(e.Token, to, m.now); err == nil {
		rt.Fatalf("%s -> %s with %d owned was allowed", before.State, to, m.l.ownedOn(e.Token))
	}
	if diff := cmp.Diff(before, *e, equateAddrs, cmpopts.IgnoreUnexported(eni{})); diff != "" {
		rt.Fatal(diff)
	}
}

// Steal takes an address from an ENI behind the pool's back.
func (m *ledgerMachine) Steal(t *rapid.T) {
	e := m.pick(t, in(ENIInUse))
	if shown := m.cloud[e.ID]; shown != nil && len(shown.PrivateIPs) > 1 {
		shown.PrivateIPs = shown.PrivateIPs[:len(shown.PrivateIPs)-1]
	}
}

func (m *ledgerMachine) Sync(*rapid.T) {
	o := observation{versions: map[string]int{}, started: m.now, vSwitches: map[string]aliyun.VSwitch{"vsw": {ID: "vsw"}}}
	for token, e := range m.l.enis {
		o.versions[token] = e.version
	}
	for _, e := range m.cloud {
		shown := *e
		shown.PrivateIPs = slices.Clone(e.PrivateIPs)
		o.enis = append(o.enis, shown)
	}
	m.l.observe(o, identity{"me", "i-1"}, m.now)
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
	for token, e := range m.l.enis {
		n := len(m.l.addressesOn(token)) + e.Count
		if e.Assign != nil {
			n += e.Assign.Count
		}
		if n > m.l.limits.AddressesPerENI {
			t.Fatalf("%s has or awaits %d addresses of %d", e.name(), n, m.l.limits.AddressesPerENI)
		}
		if e.ID != "" && (e.Slot < 1 || slots[e.Slot]) {
			t.Fatalf("slot %d of %s is taken or invalid", e.Slot, e.name())
		}
		slots[e.Slot] = true
	}
	owned := map[Key]netip.Addr{}
	for addr, a := range m.l.addrs {
		if a.owned() {
			owned[a.Key] = addr
		} else if a.Key != (Key{}) {
			t.Fatalf("%s is %s and has the owner %s", addr, a.State, a.Key)
		}
	}
	if diff := cmp.Diff(owned, m.l.byKey, equateAddrs); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(m.owners, m.l.byKey, equateAddrs); diff != "" {
		t.Fatal("leases were lost or invented:\n", diff)
	}
	m.checkDisk(t)
}

// checkDisk replays what was journalled: it gives the ledger that is in memory.
func (m *ledgerMachine) checkDisk(t *rapid.T) {
	replayed := newLedger()
	for _, c := range m.disk {
		if c.bucket == bucketENIs {
			var e eni
			must(t, json.Unmarshal(c.value, &e))
			replayed.enis[e.Token] = &e
		}
	}
	for _, c := range m.disk {
		if c.bucket == bucketAddresses {
			var a address
			must(t, json.Unmarshal(c.value, &a))
			replayed.restore(a, propertyCooldown)
		}
	}
	sinceIsNoMatter := cmp.Options{cmpopts.IgnoreUnexported(eni{}, address{}), cmpopts.IgnoreFields(address{}, "Since"), equateAddrs}
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
		m.now = m.now.Add(time.Minute)
		m.l.expire(m.now)
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
			for _, addr := range e.PrivateIPs {
				if m.l.addrs[addr] == nil {
					t.Fatalf("%s is in the cloud and not in the journal", addr)
				}
			}
		}
		for addr, a := range m.l.addrs {
			shown := m.cloud[m.l.enis[a.ENI].ID]
			if !a.owned() && (shown == nil || !slices.Contains(shown.PrivateIPs, addr)) {
				t.Fatalf("%s is %s in the journal and not in the cloud", addr, a.State)
			}
		}
	})
}

func TestRestoreResolvesTwoRecordsOfOneKey(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	old, young := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for _, order := range [][]netip.Addr{{old, young}, {young, old}} {
		l := newLedger()
		for _, addr := range order {
			since := now
			if addr == young {
				since = now.Add(time.Second)
			}
			l.restore(address{Addr: addr, State: assigned, Key: key(1), Since: since}, time.Minute)
		}
		if l.byKey[key(1)] != young || l.addrs[old].State != cooling {
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
