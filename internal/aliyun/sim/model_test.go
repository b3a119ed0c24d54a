package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A recorder is a Fabric that remembers what is plugged, and fails on demand.
type recorder struct {
	mu    sync.Mutex
	ports map[string]Port
	fail  bool

	beforeUnplug func(eniID string) // called without the lock; set it before use
}

func newRecorder() *recorder { return &recorder{ports: map[string]Port{}} }

var errFabric = errors.New("fabric is told to fail")

func (r *recorder) change(fn func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail {
		return errFabric
	}
	return fn()
}

func (r *recorder) setFail(fail bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

func (r *recorder) AddVSwitch(Net) error { return nil }

func (r *recorder) Plug(p Port) error {
	return r.change(func() error {
		if _, twice := r.ports[p.ENIID]; twice {
			return fmt.Errorf("%s is plugged twice", p.ENIID)
		}
		r.ports[p.ENIID] = p
		return nil
	})
}

func (r *recorder) Unplug(id string) error {
	if r.beforeUnplug != nil {
		r.beforeUnplug(id)
	}
	return r.change(func() error {
		delete(r.ports, id)
		return nil
	})
}

func (r *recorder) AddAddrs(id string, addrs []netip.Addr) error {
	return r.change(func() error {
		p := r.ports[id]
		p.Addrs = slices.Concat(p.Addrs, addrs)
		r.ports[id] = p
		return nil
	})
}

func (r *recorder) RemoveAddrs(id string, addrs []netip.Addr) error {
	return r.change(func() error {
		p := r.ports[id]
		p.Addrs = slices.DeleteFunc(slices.Clone(p.Addrs), func(a netip.Addr) bool { return slices.Contains(addrs, a) })
		r.ports[id] = p
		return nil
	})
}

type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// checkInvariants holds the model against itself and, at rest, against the Fabric (nil: none).
func checkInvariants(t failer, c *Cloud, fabric *recorder) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	owners := map[netip.Addr]string{}
	perPool := map[*addrPool]int{}
	for id, e := range c.enis {
		checkENI(t, c, id, e)
		for _, a := range e.holdings().all() {
			if owners[a] != "" {
				t.Errorf("%s is on %s and %s", a, owners[a], id)
			}
			owners[a] = id
			pool := e.subnet.pools[aliyun.FamilyOf(a)]
			perPool[pool]++
			if !pool.used[a] || c.byAddr[a] != e || !pool.assignable(a) {
				t.Errorf("%s of %s is not taken, not found by address, or reserved", a, id)
			}
		}
	}
	if len(owners) != len(c.byAddr) {
		t.Errorf("%d addresses on ENIs, %d in the index", len(owners), len(c.byAddr))
	}
	for id, s := range c.subnets {
		for f, pool := range s.pools {
			if len(pool.used) != perPool[pool] || pool.free() < 0 || pool.quota > 0 && len(pool.used) > pool.quota {
				t.Errorf("%s: %d %v addresses taken, %d on ENIs, %d free", id, len(pool.used), f, perPool[pool], pool.free())
			}
		}
	}
	for id, g := range c.groups {
		if n := c.members(id); g.MaxMembers > 0 && n > g.MaxMembers {
			t.Errorf("%s has %d members, the limit is %d", id, n, g.MaxMembers)
		}
	}
	for id, in := range c.instances {
		checkInstance(t, in, c.attached(id))
	}
	if fabric != nil {
		checkFabric(t, c, fabric)
	}
}

func checkENI(t failer, c *Cloud, id string, e *eni) {
	t.Helper()
	if e.PrimaryIP != e.PrivateIPs[0] || id != e.ID {
		t.Errorf("%s: primary %s is not first of %v", id, e.PrimaryIP, e.PrivateIPs)
	}
	if (e.InstanceID == "") != (e.Status == aliyun.StatusAvailable || e.Status == aliyun.StatusDeleting) {
		t.Errorf("%s is %s on %q", id, e.Status, e.InstanceID)
	}
	if in := c.instances[e.InstanceID]; e.InstanceID != "" && (in == nil || in.VPCID != e.VPCID || in.ZoneID != e.ZoneID) {
		t.Errorf("%s in %s and %s is on %q", id, e.VPCID, e.ZoneID, e.InstanceID)
	}
	for _, g := range e.SecurityGroupIDs {
		if c.groups[g].VPCID != e.VPCID {
			t.Errorf("%s of %s is in %s of %s", id, e.VPCID, g, c.groups[g].VPCID)
		}
	}
}

func checkInstance(t failer, in *instance, attached []*eni) {
	t.Helper()
	if len(attached) > in.limits.ENIs {
		t.Errorf("%s has %d ENIs, the limit is %d", in.ID, len(attached), in.limits.ENIs)
	}
	queues, devices := 0, map[int]bool{}
	for _, e := range attached {
		for _, f := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
			if e.slots(f) > in.limits.limit(f) {
				t.Errorf("%s has %d %v slots, the limit is %d", e.ID, e.slots(f), f, in.limits.limit(f))
			}
		}
		if devices[e.device] {
			t.Errorf("%s has two ENIs at index %d", in.ID, e.device)
		}
		devices[e.device] = true
		queues += e.QueueNumber
	}
	if in.limits.TotalQueues > 0 && queues > in.limits.TotalQueues {
		t.Errorf("%s has %d queues, the limit is %d", in.ID, queues, in.limits.TotalQueues)
	}
}

// checkFabric requires that exactly the attached ENIs are plugged, with exactly their addresses.
func checkFabric(t failer, c *Cloud, fabric *recorder) {
	t.Helper()
	fabric.mu.Lock()
	defer fabric.mu.Unlock()
	plugged := 0
	for id, e := range c.enis {
		p, ok := fabric.ports[id]
		if ok {
			plugged++
		}
		if ok != (e.Status == aliyun.StatusInUse) || ok && !sameAddrs(p.Addrs, e.holdings().all()) {
			t.Errorf("%s is %s with %v; plugged %v with %v", id, e.Status, e.holdings(), ok, p.Addrs)
		}
	}
	if plugged != len(fabric.ports) {
		t.Errorf("%d ports for %d plugged ENIs", len(fabric.ports), plugged)
	}
}

func sameAddrs(a, b []netip.Addr) bool {
	return slices.Equal(slices.SortedFunc(slices.Values(a), netip.Addr.Compare), slices.SortedFunc(slices.Values(b), netip.Addr.Compare))
}

// A machine drives a cloud with random calls; what matters is that no call ever breaks the invariants.
type machine struct {
	t       *rapid.T
	cloud   *Cloud
	fabric  *recorder
	enis    []string
	number  int
	running []string
}

func (m *machine) pick(label string, from []string) string {
	return rapid.SampledFrom(append(slices.Clone(from), "none-such")).Draw(m.t, label)
}

func (m *machine) call(serve func(*Cloud, input) (object, error), in input) object {
	answer, err := serve(m.cloud, in)
	if _, ok := errors.AsType[*refusal](err); err != nil && !ok {
		m.t.Fatalf("error %v is no refusal", err)
	}
	return answer
}

func (m *machine) create() {
	in := input{
		"VSwitchId":          rapid.SampledFrom([]string{DefaultPodVSwitch, "vsw-tiny", "vsw-other"}).Draw(m.t, "vSwitch"),
		"SecurityGroupIds.1": rapid.SampledFrom([]string{DefaultSecurityGroup, "sg-small", "sg-none"}).Draw(m.t, "group"),
	}
	for param, most := range map[string]int{"SecondaryPrivateIpAddressCount": 5, "Ipv6AddressCount": 4, "Ipv4PrefixCount": 2, "QueueNumber": 3} {
		if n := rapid.IntRange(0, most).Draw(m.t, param); n > 0 && rapid.Bool().Draw(m.t, "with "+param) {
			in[param] = fmt.Sprint(n)
		}
	}
	if rapid.Bool().Draw(m.t, "keep on release") {
		in["DeleteOnRelease"] = "false"
	}
	if id, ok := m.call((*Cloud).createENI, in)["NetworkInterfaceId"].(string); ok {
		m.enis = append(m.enis, id)
	}
}

func (m *machine) onENI(serve func(*Cloud, input) (object, error)) func() {
	return func() {
		m.call(serve, input{"NetworkInterfaceId": m.pick("ENI", m.enis), "InstanceId": m.pick("instance", m.running)})
	}
}

func (m *machine) assign() {
	count := fmt.Sprint(rapid.IntRange(1, 5).Draw(m.t, "count"))
	id := m.pick("ENI", m.enis)
	switch rapid.SampledFrom([]string{"IPv4", "IPv6", "prefix"}).Draw(m.t, "what") {
	case "IPv4":
		m.call((*Cloud).assignIPs, input{"NetworkInterfaceId": id, "SecondaryPrivateIpAddressCount": count})
	case "IPv6":
		m.call((*Cloud).assignIPv6s, input{"NetworkInterfaceId": id, "Ipv6AddressCount": count})
	default:
		m.call((*Cloud).assignIPs, input{"NetworkInterfaceId": id, "Ipv4PrefixCount": count})
	}
}

func (m *machine) unassign() {
	enis := m.cloud.ENIs()
	if len(enis) == 0 {
		return
	}
	e := rapid.SampledFrom(enis).Draw(m.t, "ENI")
	if len(e.IPv6s) > 0 && rapid.Bool().Draw(m.t, "IPv6") {
		addr := rapid.SampledFrom(e.IPv6s).Draw(m.t, "address")
		m.call((*Cloud).unassignIPv6s, input{"NetworkInterfaceId": e.ID, "Ipv6Address.1": addr.String()})
		return
	}
	in := input{"NetworkInterfaceId": e.ID, "PrivateIpAddress.1": rapid.SampledFrom(e.PrivateIPs).Draw(m.t, "address").String()}
	if len(e.IPv4Prefixes) > 0 && rapid.Bool().Draw(m.t, "prefix") {
		in["Ipv4Prefix.1"] = rapid.SampledFrom(e.IPv4Prefixes).Draw(m.t, "prefix").String()
		delete(in, "PrivateIpAddress.1")
	}
	m.call((*Cloud).unassignIPs, in)
}

func (m *machine) modify() {
	in := input{"NetworkInterfaceId": m.pick("ENI", m.enis)}
	switch rapid.SampledFrom([]string{"groups", "queues", "release"}).Draw(m.t, "what") {
	case "groups":
		in["SecurityGroupId.1"] = rapid.SampledFrom([]string{DefaultSecurityGroup, "sg-small", "sg-none"}).Draw(m.t, "group")
	case "queues":
		in["QueueNumber"] = fmt.Sprint(rapid.IntRange(1, 3).Draw(m.t, "queues"))
	default:
		in["DeleteOnRelease"] = fmt.Sprint(rapid.Bool().Draw(m.t, "release"))
	}
	m.call((*Cloud).modifyENI, in)
}

func (m *machine) tag() {
	key := rapid.SampledFrom([]string{"a", "b"}).Draw(m.t, "key")
	in := input{"ResourceType": kindENI, "ResourceId.1": m.pick("ENI", m.enis), "Tag.1.Key": key, "TagKey.1": key}
	m.call(rapid.SampledFrom([]func(*Cloud, input) (object, error){(*Cloud).tagResources, (*Cloud).untagResources}).Draw(m.t, "call"), in)
}

// stop and start change what is refused, and nothing else.
func (m *machine) stop() {
	id := m.pick("instance", m.running)
	if m.cloud.StopInstance(id) != nil {
		_ = m.cloud.StartInstance(id) // it may be neither
	}
}

func (m *machine) run() {
	m.number++
	spec := InstanceSpec{
		ID: fmt.Sprint("i-", m.number), Type: rapid.SampledFrom([]string{"ecs.sim.tiny", "ecs.sim.small"}).Draw(m.t, "type"),
		VSwitchID: rapid.SampledFrom([]string{DefaultNodeVSwitch, "vsw-other"}).Draw(m.t, "vSwitch"), NetNS: "/none",
		IPv6s: rapid.IntRange(0, 1).Draw(m.t, "IPv6s"),
	}
	if in, _, err := m.cloud.RunInstance(context.Background(), spec); err == nil {
		m.running = append(m.running, in.ID)
	}
}

func (m *machine) terminate() {
	id := m.pick("instance", m.running)
	if err := m.cloud.TerminateInstance(context.Background(), id); err == nil {
		m.running = slices.DeleteFunc(m.running, func(s string) bool { return s == id })
	}
}

// breakFabric lets the Fabric fail for one call of another kind. An instance it fails to release stays half released.
func (m *machine) breakFabric() {
	m.fabric.setFail(true)
	defer m.fabric.setFail(false)
	rapid.SampledFrom([]func(){
		m.onENI((*Cloud).attachENI), m.onENI((*Cloud).detachENI), m.assign, m.unassign, m.run,
	}).Draw(m.t, "call")()
}

func TestModelKeepsItsInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		fabric := newRecorder()
		cfg := DualStackConfig()
		cfg.VSwitches = append(cfg.VSwitches,
			VSwitch{ID: "vsw-tiny", CIDR: netip.MustParsePrefix("10.0.200.0/26"), MaxAddresses: 40},
			VSwitch{ID: "vsw-other", ZoneID: "cn-simulated-b", CIDR: netip.MustParsePrefix("10.0.201.0/24")})
		cfg.SecurityGroups = append(cfg.SecurityGroups,
			SecurityGroup{SecurityGroup: aliyun.SecurityGroup{ID: "sg-small"}, MaxMembers: 9})
		cfg.Fabric, cfg.MaxENIs = fabric, 12
		cloud, err := New(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		m := &machine{t: rt, cloud: cloud, fabric: fabric}
		plain := func(f func()) func(*rapid.T) {
			return func(rt *rapid.T) {
				m.t = rt
				f()
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":          func(rt *rapid.T) { checkInvariants(rt, cloud, fabric) },
			"create":    plain(m.create),
			"attach":    plain(m.onENI((*Cloud).attachENI)),
			"detach":    plain(m.onENI((*Cloud).detachENI)),
			"delete":    plain(m.onENI((*Cloud).deleteENI)),
			"assign":    plain(m.assign),
			"unassign":  plain(m.unassign),
			"modify":    plain(m.modify),
			"tag":       plain(m.tag),
			"stop":      plain(m.stop),
			"run":       plain(m.run),
			"terminate": plain(m.terminate),
			"break":     plain(m.breakFabric),
		})
	})
}
