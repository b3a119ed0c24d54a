package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// equateAddrs compares addresses and prefixes by value.
var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func testConfig(t *testing.T, cloud Cloud) Config {
	t.Helper()
	return Config{
		Path: filepath.Join(t.TempDir(), "ipam.db"), Cloud: cloud, Links: newFakeLinks(), InstanceID: testInstance,
		Settings: Settings{Watermarks: Watermarks{MinIdle: 2, MaxIdle: 5}}, Log: slog.New(slog.DiscardHandler),
	}
}

func mustOpen(t *testing.T, c Config) *Pool {
	t.Helper()
	p, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start runs the pool until the returned function is called, which also closes it.
func start(t *testing.T, p *Pool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := errors.Join(<-done, p.Close()); err != nil {
			t.Error(err)
		}
	}
}

func key(i int) Key { return Key{Network: "net", ContainerID: fmt.Sprintf("c%d", i), IfName: "eth0"} }

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func mustAllocate(t *testing.T, p *Pool, i int) Lease {
	t.Helper()
	ctx, cancel := within(time.Minute)
	defer cancel()
	lease, err := p.Allocate(ctx, Request{Key: key(i), Pod: Pod{Name: fmt.Sprintf("pod-%d", i)}})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func TestPoolFillsToMinIdleAndServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		eventually(t, "two idle addresses", func() bool { return p.Stats().Idle == 2 })
		before := len(cloud.calls)
		first := mustAllocate(t, p, 1)
		if again := mustAllocate(t, p, 1); !reflect.DeepEqual(again, first) {
			t.Errorf("same key, other lease: %v and %v", first, again)
		}
		if len(cloud.calls) != before {
			t.Errorf("a warm lease took cloud calls: %v", cloud.calls[before:])
		}
		if want := netip.MustParseAddr("10.1.255.253"); first.ENI.Slot != 1 || first.ENI.Nets[0].Gateway != want {
			t.Errorf("lease is %+v, want slot 1, gateway %s", first, want)
		}
		eventually(t, "two idle addresses again", func() bool { return p.Stats().Idle == 2 })
	})
}

// The shared ENI's own primary address serves a pod too, so a full node has every address of its ENIs in use.
func TestPoolLeasesItsWholeCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 3)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() { mustAllocate(t, p, i) })
		}
		wg.Wait()
		ctx, cancel := within(time.Hour)
		defer cancel()
		began := time.Now()
		_, err := p.Allocate(ctx, Request{Key: key(7), Pod: Pod{}})
		if !errors.Is(err, ErrExhausted) || time.Since(began) > time.Minute {
			t.Errorf("seventh of six: %v after %s", err, time.Since(began))
		}
		if cloud.most > 2 || p.Stats().Used != 6 {
			t.Errorf("%d ENIs at most, %+v", cloud.most, p.Stats())
		}
		seen := map[netip.Addr]bool{}
		for _, l := range p.Leases() {
			seen[l.Addrs[0]] = true
		}
		if len(seen) != 6 {
			t.Errorf("%d different addresses", len(seen))
		}
	})
}

func TestReleaseCoolsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(t, newFakeCloud(1, 1))
		c.Settings.Watermarks = Watermarks{}
		p := mustOpen(t, c)
		defer start(t, p)()
		first := mustAllocate(t, p, 1)
		for range 2 {
			if err := p.Release(t.Context(), key(1), 0); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if second := mustAllocate(t, p, 2); second.Addrs[0] != first.Addrs[0] {
			t.Errorf("%s after %s, of one address", second.Addrs, first.Addrs)
		}
		if waited := time.Since(began); waited < 30*time.Second || waited > 31*time.Second {
			t.Errorf("second owner came after %s, want 30s", waited)
		}
	})
}

func TestRestartKeepsLeasesAndSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 2)
		c := testConfig(t, cloud)
		p := mustOpen(t, c)
		stop := start(t, p)
		for i := range 3 {
			mustAllocate(t, p, i)
		}
		eventually(t, "four addresses", func() bool { return p.Stats().Idle == 1 })
		leases, enis := p.Leases(), p.ENIs()
		stop()

		cloud.fail = func(string) error { return aliyun.ErrUnavailable }
		p = mustOpen(t, c)
		defer start(t, p)()
		<-p.Ready()
		if diff := cmp.Diff(leases, p.Leases(), equateAddrs); diff != "" {
			t.Error(diff)
		}
		eventually(t, "wired without a cloud", func() bool { return cmp.Equal(enis, p.ENIs(), equateAddrs) })
		mustAllocate(t, p, 3) // the last one that the journal knows to be free
		ctx, cancel := within(time.Hour)
		defer cancel()
		began := time.Now()
		if _, err := p.Allocate(ctx, Request{Key: key(9)}); !errors.Is(err, ErrExhausted) || time.Since(began) > time.Minute {
			t.Errorf("without a cloud: %v after %s", err, time.Since(began))
		}
	})
}

func TestCloudDownFailsFastWithReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		eventually(t, "idle addresses", func() bool { return p.Stats().Idle >= 2 })
		cloud.mu.Lock()
		cloud.fail = func(string) error { return aliyun.ErrUnavailable }
		cloud.mu.Unlock()
		mustAllocate(t, p, 1)
		mustAllocate(t, p, 2)
		ctx, cancel := within(time.Hour)
		defer cancel()
		began := time.Now()
		_, err := p.Allocate(ctx, Request{Key: key(3), Pod: Pod{}})
		if !errors.Is(err, ErrExhausted) || !errors.Is(err, aliyun.ErrUnavailable) || time.Since(began) > time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestFullVSwitchDoesNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		cloud.vSwitches["vsw-b"] = &aliyun.VSwitch{ID: "vsw-b", ZoneID: "z-1", CIDR: netip.MustParsePrefix("10.2.0.0/16"), AvailableIPs: 500}
		c := testConfig(t, cloud)
		c.Settings.VSwitches = []string{"vsw-a", "vsw-b"}
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "idle addresses", func() bool { return p.Stats().Idle >= 2 })
		cloud.mu.Lock()
		cloud.vSwitches["vsw-a"].AvailableIPs = 0
		cloud.mu.Unlock()
		for i := range 6 {
			mustAllocate(t, p, i)
		}
		if enis := p.ENIs(); len(enis) != 2 || enis[1].VSwitchID != "vsw-b" {
			t.Errorf("ENIs are %+v", enis)
		}
	})
}

func TestIdleAddressesGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 10)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 1, MaxIdle: 2}
		c.Settings.Idle = IdleReclaim{After: 5 * time.Minute}
		p := mustOpen(t, c)
		defer start(t, p)()
		for i := range 8 {
			mustAllocate(t, p, i)
		}
		for i := range 8 {
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "two idle addresses", func() bool {
			return p.Stats() == Stats{Idle: 2, Capacity: 10, ENIs: 1, Exclusive: ExclusiveStats{Capacity: 1}}
		})
		if got := cloud.ours(); len(got["eni-1"]) != 2 {
			t.Errorf("cloud has %v", got)
		}
	})
}

func TestLinkAbsentKeepsAddressesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(t, newFakeCloud(1, 3))
		links := newFakeLinks()
		links.absent["00:16:3e:00:00:01"] = true
		c.Links = links
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "attached", func() bool { e := p.ENIs(); return len(e) == 1 && e[0].State == ENIInUse })
		if s := p.Stats(); s.Idle != 0 || s.Pending != 2 {
			t.Errorf("unwired ENI counts as %+v", s)
		}
		links.mu.Lock()
		links.absent = nil
		links.mu.Unlock()
		mustAllocate(t, p, 1)
	})
}

// An attacher notes what was so when an ENI was attached.
type attacher struct {
	*fakeCloud
	attaching func()
}

func (a attacher) AttachENI(ctx context.Context, eniID, instanceID string) error {
	a.attaching()
	return a.fakeCloud.AttachENI(ctx, eniID, instanceID)
}

// The node is told of an ENI that the pool knows, with its MAC address, before its link can appear.
func TestENIIsExpectedBeforeItIsAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(t, newFakeCloud(1, 3))
		links := newFakeLinks()
		var p *Pool
		c.Links, c.Cloud = links, attacher{newFakeCloud(1, 3), func() {
			enis := p.ENIs()
			links.mu.Lock()
			defer links.mu.Unlock()
			if len(enis) != 1 || enis[0].MAC == "" || !links.expected[enis[0].MAC] {
				t.Errorf("ENIs %+v, expected %v", enis, links.expected)
			}
		}}
		p = mustOpen(t, c)
		defer start(t, p)()
		mustAllocate(t, p, 1)
	})
}

func TestSyncAdoptsAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(3, 4)
		tags := identity{owner: testInstance, instanceID: testInstance}.tags("lost")
		cloud.enis["eni-lost"] = &fakeENI{ENI: aliyun.ENI{
			ID: "eni-lost", MAC: "00:16:3e:00:01:00", Type: aliyun.TypeSecondary, Status: aliyun.StatusAvailable, VSwitchID: "vsw-a",
			PrimaryIP: netip.MustParseAddr("10.1.9.1"), PrivateIPs: []netip.Addr{netip.MustParseAddr("10.1.9.1")}, Tags: tags,
		}}
		foreign := aliyun.ENI{ID: "eni-foreign", Type: aliyun.TypeSecondary, Status: aliyun.StatusInUse, InstanceID: testInstance, VSwitchID: "vsw-a"}
		cloud.enis["eni-foreign"] = &fakeENI{ENI: foreign}
		other := aliyun.ENI{ID: "eni-other", Type: aliyun.TypeSecondary, Status: aliyun.StatusAvailable, VSwitchID: "vsw-a", Tags: map[string]string{tagOwner: testInstance, tagInstance: "i-other"}}
		cloud.enis["eni-other"] = &fakeENI{ENI: other}
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		eventually(t, "adopted and filled", func() bool { return p.Stats().Idle >= 2 })
		enis := p.ENIs()
		if len(enis) != 1 || enis[0].ID != "eni-lost" || enis[0].Nets[0].Gateway != netip.MustParseAddr("10.1.255.253") {
			t.Fatalf("ENIs are %+v", enis)
		}
		if cloud.enis["eni-foreign"].Status != aliyun.StatusInUse || cloud.enis["eni-other"].Status != aliyun.StatusAvailable {
			t.Error("an ENI that is not ours was touched")
		}
		// Somebody takes a free address away: not leased any more, forgotten on the second look.
		lease := mustAllocate(t, p, 1)
		cloud.mu.Lock()
		cloud.enis["eni-lost"].PrivateIPs = []netip.Addr{lease.Addrs[0]}
		cloud.mu.Unlock()
		p.mu.Lock()
		p.resync = time.Now()
		p.mu.Unlock()
		p.kick()
		eventually(t, "quarantine", func() bool { return p.Stats().Quarantined > 0 })
		eventually(t, "forgotten", func() bool { return p.Stats().Quarantined == 0 })
		if got, _ := p.Lookup(key(1)); got.Addrs[0] != lease.Addrs[0] {
			t.Error("a lease was lost")
		}
	})
}

// The listing of an instance always has its primary ENI; one without is not believed.
func TestEmptyListingIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 4)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle >= 2 })
		cloud.mu.Lock()
		saved := cloud.enis
		cloud.enis = map[string]*fakeENI{}
		cloud.mu.Unlock()
		time.Sleep(20 * time.Minute) // several syncs; the bubble's clock jumps
		if s := p.Stats(); s.Idle < 2 || s.ENIs != 1 || cloud.count("CreateENI") != 1 {
			t.Errorf("after an empty listing: %+v, %d ENIs created", s, cloud.count("CreateENI"))
		}
		cloud.mu.Lock()
		cloud.enis = saved
		cloud.mu.Unlock()
	})
}

func TestStuckAttachIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 4)
		cloud.fail = func(call string) error {
			if call == "AttachENI" {
				return aliyun.ErrUnavailable
			}
			return nil
		}
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		eventually(t, "deleted", func() bool { return cloud.count("DeleteENI") > 0 })
		cloud.mu.Lock()
		cloud.fail = nil
		cloud.mu.Unlock()
		eventually(t, "a new ENI serves", func() bool { return p.Stats().Idle >= 2 })
		if got := cloud.ours(); len(got) != 1 {
			t.Errorf("cloud has %v", got)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	c := testConfig(t, newFakeCloud(1, 1))
	c.Settings.Watermarks = Watermarks{MinIdle: 3, MaxIdle: 2}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "Watermarks.MinIdle is 3: use at most MaxIdle, which is 2") {
		t.Errorf("crossed watermarks: %v", err)
	}
	c.Settings.Watermarks = Watermarks{}
	p := mustOpen(t, c)
	defer p.Close()
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second opener: %v", err)
	}
}

func TestAllocateEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustOpen(t, testConfig(t, newFakeCloud(1, 1)))
		defer p.Close() // Run is not called: nothing can come
		ctx, cancel := within(time.Second)
		defer cancel()
		if _, err := p.Allocate(ctx, Request{Key: key(1)}); !errors.Is(err, ErrExhausted) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if p.Stats().Waiting != 0 {
			t.Error("a caller that has gone is still counted")
		}
	})
}

// A repeated assignment carries its token, so that addresses are not taken twice when an answer is lost.
func TestAssignIsRepeatedWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 10)
		lossy := &lossyCloud{fakeCloud: cloud, at: -1}
		c := testConfig(t, lossy)
		c.Settings.Watermarks = Watermarks{MinIdle: 1, MaxIdle: 1}
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "one idle address", func() bool { return p.Stats().Idle == 1 })
		lossy.loseAssign.Store(3)
		mustAllocate(t, p, 1)
		eventually(t, "one idle address again", func() bool { return p.Stats().Idle == 1 })
		if got := cloud.ours()["eni-1"]; len(got) != 2 || cloud.count("AssignIPs") != 4 {
			t.Errorf("cloud has %v after %d calls", got, cloud.count("AssignIPs"))
		}
	})
}

// An ENI with pods on it is never forgotten, however long the cloud does not show it.
func TestMissingENIWithPodsStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 4)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		lease := mustAllocate(t, p, 1)
		cloud.mu.Lock()
		delete(cloud.enis, "eni-1")
		cloud.mu.Unlock()
		time.Sleep(20 * time.Minute) // several syncs; the bubble's clock jumps
		if got, ok := p.Lookup(key(1)); !ok || !reflect.DeepEqual(got, lease) {
			t.Errorf("lease is %+v, want %+v", got, lease)
		}
		if err := p.Release(t.Context(), key(1), 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "replaced", func() bool { e := p.ENIs(); return len(e) == 1 && e[0].ID == "eni-2" && e[0].Wired })
	})
}
