package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
	addrs   []netip.Addr
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

// The same calls from many goroutines, for the race detector and for deadlocks between op locks and the mutex.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := newCloud(t, func(c *Config) {
		c.Fabric = fabric
		c.Delays = Delays{Attach: time.Millisecond, Detach: time.Millisecond, Delete: time.Millisecond}
	})
	var ids []string
	for range 4 {
		answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, answer["NetworkInterfaceId"].(string))
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			instance := fmt.Sprint("i-", worker%2)
			for round := range 50 {
				in := input{"NetworkInterfaceId": ids[(worker+round)%len(ids)], "InstanceId": instance, "SecondaryPrivateIpAddressCount": "1"}
				_, _, _ = c.RunInstance(t.Context(), InstanceSpec{ID: instance, Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"})
				_, _ = c.attachENI(in)
				_, _ = c.assignIPs(in)
				_, _ = c.describeENIs(in)
				_, _ = c.detachENI(in)
				if round%10 == 9 {
					_ = c.TerminateInstance(t.Context(), instance)
				}
				checkInvariants(t, c, nil)
			}
		})
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.pending.Wait()
	checkInvariants(t, c, nil)
}

func TestStatesTakeTheirTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fabric := newRecorder()
		c := newCloud(t, func(c *Config) {
			c.Fabric = fabric
			c.Delays = Delays{Attach: 5 * time.Second, Detach: 4 * time.Second, Delete: 2 * time.Second}
		})
		if _, _, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"}); err != nil {
			t.Fatal(err)
		}
		answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
		if err != nil {
			t.Fatal(err)
		}
		id := answer["NetworkInterfaceId"].(string)
		in := input{"NetworkInterfaceId": id, "InstanceId": "i-1", "SecondaryPrivateIpAddressCount": "1"}
		steps := []struct {
			call                     func(*Cloud, input) (object, error)
			wait                     time.Duration
			during, after            string
			pluggedBefore, pluggedAt bool
		}{
			{(*Cloud).attachENI, 5 * time.Second, aliyun.StatusAttaching, aliyun.StatusInUse, false, true},
			{(*Cloud).detachENI, 4 * time.Second, aliyun.StatusDetaching, aliyun.StatusAvailable, true, false},
			{(*Cloud).deleteENI, 2 * time.Second, aliyun.StatusDeleting, "", false, false},
		}
		for _, s := range steps {
			if _, err := s.call(c, in); err != nil {
				t.Fatal(err)
			}
			time.Sleep(s.wait - time.Millisecond)
			synctest.Wait()
			if got, plugged := observe(c, fabric, id); got != s.during || plugged != s.pluggedBefore {
				t.Errorf("before the end: %s, plugged %v; want %s, %v", got, plugged, s.during, s.pluggedBefore)
			}
			for name, other := range map[string]func(*Cloud, input) (object, error){
				"attach": (*Cloud).attachENI, "detach": (*Cloud).detachENI, "delete": (*Cloud).deleteENI, "assign": (*Cloud).assignIPs,
			} {
				_, err := other(c, in)
				if ref, ok := errors.AsType[*refusal](err); !ok || ref.code != codeEniState {
					t.Errorf("%s while %s: %v", name, s.during, err)
				}
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if got, plugged := observe(c, fabric, id); got != s.after || plugged != s.pluggedAt {
				t.Errorf("at the end: %s, plugged %v; want %s, %v", got, plugged, s.after, s.pluggedAt)
			}
		}
		checkInvariants(t, c, fabric)
	})
}

func observe(c *Cloud, fabric *recorder, id string) (status string, plugged bool) {
	fabric.mu.Lock()
	_, plugged = fabric.ports[id]
	fabric.mu.Unlock()
	for _, e := range c.ENIs() {
		if e.ID == id {
			status = e.Status
		}
	}
	return status, plugged
}

func TestTerminationDuringAttachment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fabric := newRecorder()
		c := newCloud(t, func(c *Config) { c.Fabric, c.Delays.Attach = fabric, time.Second })
		if _, _, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"}); err != nil {
			t.Fatal(err)
		}
		answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup, "DeleteOnRelease": "false"})
		if err != nil {
			t.Fatal(err)
		}
		id := answer["NetworkInterfaceId"].(string)
		if _, err := c.attachENI(input{"NetworkInterfaceId": id, "InstanceId": "i-1"}); err != nil {
			t.Fatal(err)
		}
		if err := c.TerminateInstance(t.Context(), "i-1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if status, plugged := observe(c, fabric, id); status != aliyun.StatusAvailable || plugged {
			t.Errorf("ENI is %s, plugged %v; want Available", status, plugged)
		}
		checkInvariants(t, c, fabric)
	})
}

// An ENI that moves to another instance while its old one is being terminated stays there.
func TestENIMovesDuringTermination(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := newCloud(t, func(c *Config) { c.Fabric = fabric })
	var primary string
	for _, id := range []string{"i-1", "i-2"} {
		_, eni, err := c.RunInstance(t.Context(), InstanceSpec{ID: id, Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"})
		if err != nil {
			t.Fatal(err)
		}
		if id == "i-1" {
			primary = eni.ID
		}
	}
	answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
	if err != nil {
		t.Fatal(err)
	}
	id := answer["NetworkInterfaceId"].(string)
	from, to := input{"NetworkInterfaceId": id, "InstanceId": "i-1"}, input{"NetworkInterfaceId": id, "InstanceId": "i-2"}
	if _, err := c.attachENI(from); err != nil {
		t.Fatal(err)
	}
	fabric.beforeUnplug = func(unplugged string) {
		if unplugged != primary { // which goes first
			return
		}
		if _, err := c.detachENI(from); err != nil {
			t.Error(err)
		}
		if _, err := c.attachENI(to); err != nil {
			t.Error(err)
		}
	}
	if err := c.TerminateInstance(t.Context(), "i-1"); err != nil {
		t.Fatal(err)
	}
	if status, plugged := observe(c, fabric, id); status != aliyun.StatusInUse || !plugged {
		t.Errorf("the ENI is %q, plugged %v; want it in use on i-2", status, plugged)
	}
	checkInvariants(t, c, fabric)
}

// What the Fabric refuses does not happen: the attachment falls back, the addresses are given back.
func TestFabricFailure(t *testing.T) {
	t.Parallel()
	fabric := newRecorder()
	c := newCloud(t, func(c *Config) { c.Fabric = fabric })
	spec := InstanceSpec{ID: "i-1", Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, NetNS: "/none"}
	fabric.setFail(true)
	if _, _, err := c.RunInstance(t.Context(), spec); err == nil {
		t.Error("an instance runs without a link")
	}
	checkInvariants(t, c, fabric)
	fabric.setFail(false)
	if _, _, err := c.RunInstance(t.Context(), spec); err != nil {
		t.Fatalf("the failed run left something: %v", err)
	}
	answer, err := c.createENI(input{"VSwitchId": DefaultPodVSwitch, "SecurityGroupId": DefaultSecurityGroup})
	if err != nil {
		t.Fatal(err)
	}
	in := input{"NetworkInterfaceId": answer["NetworkInterfaceId"].(string), "InstanceId": "i-1", "SecondaryPrivateIpAddressCount": "2"}
	fabric.setFail(true)
	if _, err := c.attachENI(in); err != nil {
		t.Errorf("attach is asynchronous, but answers %v", err)
	}
	if status, _ := observe(c, fabric, in["NetworkInterfaceId"]); status != aliyun.StatusAvailable {
		t.Errorf("after a failed attachment: %s", status)
	}
	fabric.setFail(false)
	if _, err := c.attachENI(in); err != nil {
		t.Fatal(err)
	}
	fabric.setFail(true)
	if ref, ok := errors.AsType[*refusal](mustFail(t, (*Cloud).assignIPs, c, in)); !ok || ref.status != 500 {
		t.Errorf("assign answers %+v, want an internal error", ref)
	}
	checkInvariants(t, c, nil)
	fabric.setFail(false)
	checkInvariants(t, c, fabric)
}

func mustFail(t *testing.T, serve func(*Cloud, input) (object, error), c *Cloud, in input) error {
	t.Helper()
	_, err := serve(c, in)
	if err == nil {
		t.Fatal("the call succeeded")
	}
	return err
}

func TestRunInstanceRefuses(t *testing.T) {
	t.Parallel()
	c := newCloud(t, func(c *Config) { c.Fabric = newRecorder() })
	good := InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch, PrimaryIP: netip.MustParseAddr("10.0.0.10"), NetNS: "/none"}
	in, eni, err := c.RunInstance(t.Context(), good)
	if err != nil || in.ID != "i-1" || eni.PrimaryIP != good.PrimaryIP || eni.Type != aliyun.TypePrimary || eni.Status != aliyun.StatusInUse {
		t.Errorf("RunInstance = %+v, %+v, %v", in, eni, err)
	}
	for name, change := range map[string]func(*InstanceSpec){
		"same ID":      func(s *InstanceSpec) { s.PrimaryIP = netip.Addr{} },
		"address":      func(s *InstanceSpec) { s.ID = "i-2" },
		"type":         func(s *InstanceSpec) { s.ID, s.Type = "i-2", "none" },
		"vSwitch":      func(s *InstanceSpec) { s.ID, s.VSwitchID = "i-2", "none" },
		"no namespace": func(s *InstanceSpec) { s.ID, s.NetNS = "i-2", "" },
	} {
		bad := good
		change(&bad)
		if _, _, err := c.RunInstance(t.Context(), bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := c.TerminateInstance(t.Context(), "i-9"); err == nil {
		t.Error("an unknown instance is terminated")
	}
	if err := c.TerminateInstance(t.Context(), "i-1"); err != nil || len(c.ENIs()) != 0 {
		t.Errorf("terminate: %v, %d ENIs left", err, len(c.ENIs()))
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix
	for name, change := range map[string]func(*Config){
		"region":          func(c *Config) { c.RegionID = "" },
		"VPC CIDR":        func(c *Config) { c.VPCCIDR = netip.Prefix{} },
		"IPv6 VPC":        func(c *Config) { c.VPCCIDR = prefix("fd00::/48") },
		"no vSwitch":      func(c *Config) { c.VSwitches = nil },
		"outside":         func(c *Config) { c.VSwitches[0].CIDR = prefix("10.1.0.0/24") },
		"larger":          func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.0.0/8") },
		"overlap":         func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.64.0/24") },
		"host bits":       func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.0.1/24") },
		"too small":       func(c *Config) { c.VSwitches[0].CIDR = prefix("10.0.0.0/30") },
		"security groups": func(c *Config) { c.SecurityGroups = nil },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSubnet(t *testing.T) {
	t.Parallel()
	s := newSubnet(VSwitch{ID: "vsw", CIDR: netip.MustParsePrefix("10.0.0.0/29")})
	if s.gateway != netip.MustParseAddr("10.0.0.5") || s.free() != 4 {
		t.Errorf("gateway %s, %d free; want 10.0.0.5 and 4", s.gateway, s.free())
	}
	first, err := s.take(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(2); err == nil || s.free() != 1 {
		t.Errorf("took 2 of 1: %v, %d free", err, s.free())
	}
	s.release(first[:1])
	next, err := s.take(1)
	if err != nil || next[0] == first[0] {
		t.Errorf("the freed address %s is given again while another is free: %v", first[0], next)
	}
	if last, err := s.take(1); err != nil || last[0] != first[0] || s.free() != 0 {
		t.Errorf("take = %v, %v with %d free", last, err, s.free())
	}
	wide := newSubnet(VSwitch{CIDR: netip.MustParsePrefix("10.0.64.0/20")})
	if wide.gateway != netip.MustParseAddr("10.0.79.253") {
		t.Errorf("gateway of a /20 is %s", wide.gateway)
	}
}

func TestMetadataKeys(t *testing.T) {
	t.Parallel()
	c := newCloud(t, nil)
	_, first, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch})
	if err != nil {
		t.Fatal(err)
	}
	if c.metadataOf("192.0.2.1:1")["instance-id"] != "i-1" {
		t.Error("a stranger does not get the only instance")
	}
	_, second, err := c.RunInstance(t.Context(), InstanceSpec{ID: "i-2", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch})
	if err != nil {
		t.Fatal(err)
	}
	if c.metadataOf("192.0.2.1:1") != nil {
		t.Error("a stranger gets an instance although there are two")
	}
	keys := c.metadataOf(netip.AddrPortFrom(second.PrimaryIP, 1000).String())
	base := "network/interfaces/macs/" + second.MAC + "/"
	want := map[string]string{
		"instance-id": "i-2", "private-ipv4": second.PrimaryIP.String(), "mac": second.MAC, "vswitch-cidr-block": "10.0.0.0/24",
		base + "network-interface-id": second.ID, base + "gateway": "10.0.0.253", base + "netmask": "255.255.255.0",
		base + "private-ipv4s": fmt.Sprintf("[%q]", second.PrimaryIP), base + "vpc-cidr-block": "10.0.0.0/16",
		"network/interfaces/macs/": second.MAC + "/", "network/interfaces": "macs/", "ram/security-credentials/": DefaultRAMRole,
		"ram/": "security-credentials/", "instance/": "instance-type",
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got, ok := lookup(keys, key); !ok || got != want[key] {
			t.Errorf("%s = %q, %v; want %q", key, got, ok, want[key])
		}
	}
	for _, key := range []string{"none", "network/interfaces/macs/" + first.MAC, "instance-id/", "instance-i"} {
		if got, ok := lookup(keys, key); ok {
			t.Errorf("%s = %q, want nothing", key, got)
		}
	}
}

func FuzzMetadataLookup(f *testing.F) {
	c := newCloud(f, nil)
	if _, _, err := c.RunInstance(f.Context(), InstanceSpec{ID: "i-1", Type: "ecs.sim.small", VSwitchID: DefaultNodeVSwitch}); err != nil {
		f.Fatal(err)
	}
	f.Add("network/interfaces/macs/", "10.0.0.1:80")
	f.Add("//", "[::ffff:10.0.0.1]:80")
	f.Fuzz(func(t *testing.T, key, remote string) {
		if text, ok := lookup(c.metadataOf(remote), key); ok && text == "" {
			t.Errorf("lookup(%q) is empty", key)
		}
	})
}
