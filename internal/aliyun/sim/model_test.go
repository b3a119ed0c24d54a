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

func (r *recorder) AddVSwitch(netip.Prefix, netip.Addr) error { return nil }

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
	perSubnet := map[string]int{}
	for id, e := range c.enis {
		if e.PrimaryIP != e.PrivateIPs[0] || id != e.ID {
			t.Errorf("%s: primary %s is not first of %v", id, e.PrimaryIP, e.PrivateIPs)
		}
		for _, a := range e.PrivateIPs {
			if owners[a] != "" {
				t.Errorf("%s is on %s and %s", a, owners[a], id)
			}
			owners[a] = id
			if !e.subnet.used[a] || c.byAddr[a] != e || !e.subnet.assignable(a) {
				t.Errorf("%s of %s is not taken, not found by address, or reserved", a, id)
			}
		}
		perSubnet[e.VSwitchID] += len(e.PrivateIPs)
		if (e.InstanceID == "") != (e.Status == aliyun.StatusAvailable || e.Status == aliyun.StatusDeleting) {
			t.Errorf("%s is %s on %q", id, e.Status, e.InstanceID)
		}
	}
	if len(owners) != len(c.byAddr) {
		t.Errorf("%d addresses on ENIs, %d in the index", len(owners), len(c.byAddr))
	}
	for id, s := range c.subnets {
		if len(s.used) != perSubnet[id] || s.free() < 0 {
			t.Errorf("%s: %d addresses taken, %d on ENIs, %d free", id, len(s.used), perSubnet[id], s.free())
		}
	}
	for id, in := range c.instances {
		attached := c.attached(id)
		if len(attached) > in.limits.ENIs {
			t.Errorf("%s has %d ENIs, the limit is %d", id, len(attached), in.limits.ENIs)
		}
		for _, e := range attached {
			if len(e.PrivateIPs) > in.limits.AddressesPerENI {
				t.Errorf("%s has %d addresses, the limit is %d", e.ID, len(e.PrivateIPs), in.limits.AddressesPerENI)
			}
		}
	}
	if fabric != nil {
		checkFabric(t, c, fabric)
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
		if ok != (e.Status == aliyun.StatusInUse) || ok && !sameAddrs(p.Addrs, e.PrivateIPs) {
			t.Errorf("%s is %s with %v; plugged %v with %v", id, e.Status, e.PrivateIPs, ok, p.Addrs)
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
		"VSwitchId":          rapid.SampledFrom([]string{DefaultPodVSwitch, "vsw-tiny"}).Draw(m.t, "vSwitch"),
		"SecurityGroupIds.1": DefaultSecurityGroup,
	}
	if n := rapid.IntRange(0, 5).Draw(m.t, "secondaries"); n > 0 {
		in["SecondaryPrivateIpAddressCount"] = fmt.Sprint(n)
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
	m.call((*Cloud).assignIPs, input{"NetworkInterfaceId": m.pick("ENI", m.enis), "SecondaryPrivateIpAddressCount": count})
}

func (m *machine) unassign() {
	enis := m.cloud.ENIs()
	if len(enis) == 0 {
		return
	}
	e := rapid.SampledFrom(enis).Draw(m.t, "ENI")
	addr := rapid.SampledFrom(e.PrivateIPs).Draw(m.t, "address")
	m.call((*Cloud).unassignIPs, input{"NetworkInterfaceId": e.ID, "PrivateIpAddress.1": addr.String()})
}

func (m *machine) run() {
	m.number++
	spec := InstanceSpec{
		ID: fmt.Sprint("i-", m.number), Type: rapid.SampledFrom([]string{"ecs.sim.tiny", "ecs.sim.small"}).Draw(m.t, "type"),
		VSwitchID: DefaultNodeVSwitch, NetNS: "/none",
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
		cfg := DefaultConfig()
		cfg.VSwitches = append(cfg.VSwitches, VSwitch{ID: "vsw-tiny", CIDR: netip.MustParsePrefix("10.0.200.0/28")})
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
			"run":       plain(m.run),
			"terminate": plain(m.terminate),
			"break":     plain(m.breakFabric),
		})
	})
}
