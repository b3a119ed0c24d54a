package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	testInstance = "i-test"
	attachTime   = 3 * time.Second
)

// A fakeCloud keeps ENIs in memory. Attaching, detaching and deleting take time; creations and assignments repeat their
// result for the same ClientToken.
type fakeCloud struct {
	mu        sync.Mutex // guards what follows
	enis      map[string]*fakeENI
	kind      aliyun.InstanceType
	vSwitches map[string]*aliyun.VSwitch
	next      map[aliyun.Family]netip.Addr
	made      map[string]string       // ClientToken -> ENI ID
	given     map[string][]netip.Addr // ClientToken -> addresses
	calls     []string
	most      int // ENIs of ours at any time
	latency   time.Duration
	groupOf   map[string]string // resource groups by ENI
	fail      func(call string) error
}

type fakeENI struct {
	aliyun.ENI
	due time.Time // when the state in transit ends
}

func newFakeCloud(enis, perENI int) *fakeCloud {
	c := &fakeCloud{
		enis: map[string]*fakeENI{}, made: map[string]string{}, groupOf: map[string]string{}, given: map[string][]netip.Addr{},
		kind: aliyun.InstanceType{ID: "ecs.test", ENIs: enis + 1, AddressesPerENI: perENI, IPv6PerENI: perENI, QueuesPerENI: 2},
		vSwitches: map[string]*aliyun.VSwitch{
			"vsw-a": {ID: "vsw-a", ZoneID: "z-1", CIDR: netip.MustParsePrefix("10.1.0.0/16"), IPv6CIDR: netip.MustParsePrefix("fd00:1::/64"), AvailableIPs: 1000},
		},
		next: map[aliyun.Family]netip.Addr{aliyun.IPv4: netip.MustParseAddr("10.1.0.1"), aliyun.IPv6: netip.MustParseAddr("fd00:1::1")},
	}
	c.enis["eni-primary"] = &fakeENI{ENI: aliyun.ENI{
		ID: "eni-primary", Type: aliyun.TypePrimary, Status: aliyun.StatusInUse, InstanceID: testInstance,
		PrivateIPs: []netip.Addr{netip.MustParseAddr("10.1.255.1")},
	}}
	return c
}

// enter counts a call, ends what is due, and says whether the call fails. It returns with the lock held if it does not.
func (c *fakeCloud) enter(call string) error {
	if c.latency > 0 {
		time.Sleep(c.latency) // the bubble's clock jumps
	}
	c.mu.Lock()
	c.calls = append(c.calls, call)
	c.settle()
	if c.fail != nil {
		if err := c.fail(call); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	return nil
}

func (c *fakeCloud) settle() {
	for id, e := range c.enis {
		if time.Now().Before(e.due) {
			continue
		}
		switch e.Status {
		case aliyun.StatusAttaching:
			e.Status = aliyun.StatusInUse
		case aliyun.StatusDetaching:
			e.Status, e.InstanceID = aliyun.StatusAvailable, ""
		case aliyun.StatusDeleting:
			c.freeIPs(e, e.PrivateIPs)
			delete(c.enis, id)
		}
	}
}

func (c *fakeCloud) freeIPs(e *fakeENI, addrs []netip.Addr) {
	if v := c.vSwitches[e.VSwitchID]; v != nil {
		v.AvailableIPs += len(addrs)
	}
}

func (c *fakeCloud) take(vSwitchID string, n int) ([]netip.Addr, error) {
	v := c.vSwitches[vSwitchID]
	if v == nil {
		return nil, aliyun.ErrNotFound
	}
	if v.AvailableIPs < n {
		return nil, fmt.Errorf("%d of %s: %w", n, vSwitchID, aliyun.ErrVSwitchFull)
	}
	v.AvailableIPs -= n
	return c.mint(aliyun.IPv4, n), nil
}

func (c *fakeCloud) mint(f aliyun.Family, n int) []netip.Addr {
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		addrs[i] = c.next[f]
		c.next[f] = c.next[f].Next()
	}
	return addrs
}

func (c *fakeCloud) DescribeInstance(context.Context, string) (aliyun.Instance, error) {
	if err := c.enter("DescribeInstance"); err != nil {
		return aliyun.Instance{}, err
	}
	defer c.mu.Unlock()
	return aliyun.Instance{ID: testInstance, Type: c.kind.ID, ZoneID: "z-1", VSwitchID: "vsw-a", SecurityGroupIDs: []string{"sg-1"}}, nil
}

func (c *fakeCloud) DescribeInstanceType(context.Context, string) (aliyun.InstanceType, error) {
	if err := c.enter("DescribeInstanceType"); err != nil {
		return aliyun.InstanceType{}, err
	}
	defer c.mu.Unlock()
	return c.kind, nil
}

func (c *fakeCloud) DescribeVSwitches(_ context.Context, ids []string) ([]aliyun.VSwitch, error) {
	if err := c.enter("DescribeVSwitches"); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	var list []aliyun.VSwitch
	for _, id := range ids {
		if v := c.vSwitches[id]; v != nil {
			list = append(list, *v)
		}
	}
	return list, nil
}

func (c *fakeCloud) DescribeENIs(_ context.Context, f aliyun.ENIFilter) ([]aliyun.ENI, error) {
	if err := c.enter("DescribeENIs"); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	var list []aliyun.ENI
	for _, e := range c.enis {
		matches := (len(f.IDs) == 0 || slices.Contains(f.IDs, e.ID)) && (f.InstanceID == "" || f.InstanceID == e.InstanceID)
		for k, v := range f.Tags {
			matches = matches && e.Tags[k] == v
		}
		if matches {
			shown := e.ENI
			shown.PrivateIPs, shown.IPv6s = slices.Clone(e.PrivateIPs), slices.Clone(e.IPv6s)
			list = append(list, shown)
		}
	}
	return list, nil
}

func (c *fakeCloud) CreateENI(_ context.Context, r aliyun.CreateENI) (aliyun.ENI, error) {
	if err := c.enter("CreateENI"); err != nil {
		return aliyun.ENI{}, err
	}
	defer c.mu.Unlock()
	if id, ok := c.made[r.ClientToken]; ok {
		if e := c.enis[id]; e != nil {
			return e.ENI, nil
		}
	}
	addrs, err := c.take(r.VSwitchID, r.SecondaryIPs+1)
	if err != nil {
		return aliyun.ENI{}, err
	}
	n := len(c.made) + 1
	e := &fakeENI{ENI: aliyun.ENI{
		ID: fmt.Sprintf("eni-%d", n), MAC: fmt.Sprintf("00:16:3e:00:00:%02x", n), Type: aliyun.TypeSecondary,
		Status: aliyun.StatusAvailable, VSwitchID: r.VSwitchID, ZoneID: "z-1", PrimaryIP: addrs[0], PrivateIPs: addrs,
		IPv6s: c.mint(aliyun.IPv6, r.IPv6s), Tags: maps.Clone(r.Tags), SecurityGroupIDs: r.SecurityGroupIDs, DeleteOnRelease: r.DeleteOnRelease,
	}}
	c.enis[e.ID], c.made[r.ClientToken], c.groupOf[e.ID] = e, e.ID, r.ResourceGroupID
	c.most = max(c.most, len(c.enis)-1)
	return e.ENI, nil
}

// change finds an ENI in one of the states and moves it.
func (c *fakeCloud) change(call, id string, from []string, to string, edit func(*fakeENI)) error {
	if err := c.enter(call); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e := c.enis[id]
	if e == nil {
		return aliyun.ErrNotFound
	}
	if !slices.Contains(from, e.Status) {
		return fmt.Errorf("%s is %s: %w", id, e.Status, aliyun.ErrConflict)
	}
	e.Status, e.due = to, time.Now().Add(attachTime)
	edit(e)
	return nil
}

func (c *fakeCloud) AttachENI(_ context.Context, id, instance string) error {
	return c.change("AttachENI", id, []string{aliyun.StatusAvailable}, aliyun.StatusAttaching, func(e *fakeENI) { e.InstanceID = instance })
}

func (c *fakeCloud) DetachENI(_ context.Context, id, _ string) error {
	return c.change("DetachENI", id, []string{aliyun.StatusInUse}, aliyun.StatusDetaching, func(*fakeENI) {})
}

func (c *fakeCloud) DeleteENI(_ context.Context, id string) error {
	return c.change("DeleteENI", id, []string{aliyun.StatusAvailable}, aliyun.StatusDeleting, func(*fakeENI) {})
}

func (c *fakeCloud) ModifyENI(_ context.Context, id string, m aliyun.ModifyENI) error {
	if err := c.enter("ModifyENI"); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e := c.enis[id]
	if e == nil {
		return aliyun.ErrNotFound
	}
	if m.SecurityGroupIDs != nil {
		e.SecurityGroupIDs = m.SecurityGroupIDs
	}
	if m.DeleteOnRelease != nil {
		e.DeleteOnRelease = *m.DeleteOnRelease
	}
	return nil
}

func (c *fakeCloud) AssignIPs(_ context.Context, a aliyun.Assign) ([]netip.Addr, error) {
	if err := c.enter("AssignIPs" + a.Family.String()); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if addrs, ok := c.given[a.ClientToken]; ok {
		return addrs, nil
	}
	e := c.enis[a.ENIID]
	if e == nil {
		return nil, aliyun.ErrNotFound
	}
	if a.Family == aliyun.IPv6 {
		if len(e.IPv6s)+a.Count > c.kind.IPv6PerENI || a.Count > 10 {
			return nil, aliyun.ErrQuota
		}
		addrs := c.mint(aliyun.IPv6, a.Count)
		e.IPv6s = append(slices.Clone(e.IPv6s), addrs...)
		c.given[a.ClientToken] = addrs
		return addrs, nil
	}
	if len(e.PrivateIPs)+a.Count > c.kind.AddressesPerENI {
		return nil, aliyun.ErrQuota
	}
	addrs, err := c.take(e.VSwitchID, a.Count)
	if err != nil {
		return nil, err
	}
	e.PrivateIPs = append(slices.Clone(e.PrivateIPs), addrs...)
	c.given[a.ClientToken] = addrs
	return addrs, nil
}

func (c *fakeCloud) UnassignIPs(_ context.Context, id string, addrs []netip.Addr) error {
	if err := c.enter("UnassignIPs"); err != nil {
		return err
	}
	defer c.mu.Unlock()
	e := c.enis[id]
	if e == nil {
		return aliyun.ErrNotFound
	}
	before := len(e.PrivateIPs) + len(e.IPv6s)
	v4s := len(e.PrivateIPs)
	left := func(list []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return slices.Contains(addrs, a) })
	}
	e.PrivateIPs, e.IPv6s = left(e.PrivateIPs), left(e.IPv6s)
	if before-len(e.PrivateIPs)-len(e.IPv6s) != len(addrs) {
		return fmt.Errorf("not all of %v are on %s: %w", addrs, id, aliyun.ErrNotFound)
	}
	c.vSwitches[e.VSwitchID].AvailableIPs += v4s - len(e.PrivateIPs)
	return nil
}

// ours are the pool's ENIs and their addresses, as the cloud has them.
func (c *fakeCloud) ours() map[string][]netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	list := map[string][]netip.Addr{}
	for id, e := range c.enis {
		if e.Type != aliyun.TypePrimary {
			list[id] = sorted(append(slices.Clone(e.PrivateIPs), e.IPv6s...))
		}
	}
	return list
}

func (c *fakeCloud) count(call string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.calls {
		if strings.HasPrefix(one, call) {
			n++
		}
	}
	return n
}

// fakeLinks fails to wire while the ENI's MAC is in absent, and to unwire while it is stuck.
type fakeLinks struct {
	stuck  string
	mu     sync.Mutex // guards what follows
	absent map[string]bool
	wired  map[string]bool
	// expected are those that ExpectENI was called for.
	expected map[string]bool
}

func newFakeLinks() *fakeLinks {
	return &fakeLinks{absent: map[string]bool{}, wired: map[string]bool{}, expected: map[string]bool{}}
}

func (f *fakeLinks) ExpectENI(_ context.Context, e LeaseENI) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expected[e.MAC] = true
}

func (f *fakeLinks) EnsureENI(_ context.Context, e LeaseENI) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.absent[e.MAC] {
		return fmt.Errorf("no link with MAC %s", e.MAC)
	}
	f.wired[e.MAC] = true
	return nil
}

func (f *fakeLinks) RemoveENI(_ context.Context, e LeaseENI) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.MAC == f.stuck {
		return fmt.Errorf("link with MAC %s is stuck", e.MAC)
	}
	delete(f.wired, e.MAC)
	return nil
}

// eventually waits for a condition on the pool, in whatever time the test runs in.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventuallyIn(t, 10*time.Minute, what, ok)
}

func eventuallyIn(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// set changes the fake's behaviour under its lock.
func (c *fakeCloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *fakeCloud) eni(id string) aliyun.ENI {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.enis[id]; e != nil {
		return e.ENI
	}
	return aliyun.ENI{}
}

func (c *fakeCloud) v6s(id string) []netip.Addr { return c.eni(id).IPv6s }

func (f *fakeLinks) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeLinks) has(mac string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wired[mac]
}

func errorsAre(err error, targets ...error) bool {
	for _, target := range targets {
		if !errors.Is(err, target) {
			return false
		}
	}
	return true
}

func (c *fakeCloud) vSwitch(id string) aliyun.VSwitch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.vSwitches[id]
}
