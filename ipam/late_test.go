package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// TestUnknownVSwitch: the typo is told to whoever waits, and the cloud is not asked all the time.
func TestUnknownVSwitch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		c := testConfig(t, cloud)
		c.Settings.VSwitches = []string{"vsw-typo"}
		p := mustOpen(t, c)
		defer start(t, p)()
		time.Sleep(time.Minute)
		if n := cloud.count("DescribeVSwitches"); n > 20 {
			t.Errorf("asked for the vSwitches %d times in a minute", n)
		}
		ctx, cancel := within(2 * time.Minute)
		defer cancel()
		_, err := p.Allocate(ctx, Request{Key: key(1)})
		if !errors.Is(err, ErrExhausted) || ctx.Err() != nil || !strings.Contains(err.Error(), "vsw-typo") {
			t.Errorf("ends with %v, want what names the vSwitch, and soon", err)
		}
	})
}

// TestTrialWithoutAnswer: a vSwitch whose trial is never answered is asked again.
func TestTrialWithoutAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 20)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		eventually(t, "idle addresses", func() bool { return p.Stats().Idle == 2 })
		cloud.set(func() { cloud.vSwitches["vsw-a"].AvailableIPs = 0 })
		mustAllocate(t, p, 1)
		eventually(t, "open breaker", func() bool { return p.VSwitches()[0].Breaker == BreakerOpen })
		cloud.set(func() {
			cloud.fail = func(call string) error {
				if strings.HasPrefix(call, "AssignIPs") {
					return aliyun.ErrUnavailable
				}
				return nil
			}
		})
		time.Sleep(15 * time.Minute)
		cloud.set(func() { cloud.fail, cloud.vSwitches["vsw-a"].AvailableIPs = nil, 1000 })
		time.Sleep(15 * time.Minute)
		if s := p.Stats(); s.Idle < 2 {
			t.Errorf("%d idle addresses a quarter of an hour after the cloud is well", s.Idle)
		}
	})
}

// TestDetachedUnderPods: an ENI with pods that somebody detached is attached again whenever that becomes possible.
func TestDetachedUnderPods(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 20)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		lease := mustAllocate(t, p, 1)
		cloud.set(func() {
			cloud.enis[lease.ENI.ID].Status, cloud.enis[lease.ENI.ID].InstanceID = aliyun.StatusAvailable, ""
			cloud.fail = func(call string) error {
				if call == "AttachENI" {
					return fmt.Errorf("down: %w", aliyun.ErrUnavailable)
				}
				return nil
			}
		})
		p.resyncSoon()
		p.kick()
		time.Sleep(10 * time.Minute)
		cloud.set(func() { cloud.fail = nil })
		time.Sleep(5 * time.Minute)
		if state := p.ENIs()[0].State; state != ENIInUse {
			t.Errorf("the ENI is %s five minutes after it could be attached again", state)
		}
	})
}

// TestDoubtStopsNobody: neither an adopted address whose user is not known nor a listing that fails keeps the pool from
// growing.
func TestDoubtStopsNobody(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"doubtful address", "no listing"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cloud := newFakeCloud(2, 10)
				c := testConfig(t, cloud)
				c.Settings.Watermarks = Watermarks{MaxIdle: 5}
				var used []InUse
				c.InUse = func(context.Context) (list []InUse, err error) {
					cloud.set(func() { list = used })
					return list, nil
				}
				p := mustOpen(t, c)
				defer start(t, p)()
				lease := mustAllocate(t, p, 1)
				cloud.set(func() {
					if name == "no listing" {
						cloud.fail = func(call string) error {
							if call == "DescribeENIs" {
								return aliyun.ErrUnavailable
							}
							return nil
						}
						return
					}
					var addrs []netip.Addr
					addrs, _ = cloud.take("vsw-a", 1)
					cloud.enis[lease.ENI.ID].PrivateIPs = append(cloud.enis[lease.ENI.ID].PrivateIPs, addrs...)
					used = []InUse{{Addr: addrs[0]}}
				})
				p.resyncSoon()
				p.kick()
				time.Sleep(15 * time.Minute)
				for i := 2; i < 5; i++ {
					mustAllocate(t, p, i)
				}
			})
		})
	}
}

// A lateCloud shows an ENI two seconds after it was made.
type lateCloud struct {
	*fakeCloud
	created time.Time
}

func (c *lateCloud) CreateENI(ctx context.Context, r aliyun.CreateENI) (aliyun.ENI, error) {
	e, err := c.fakeCloud.CreateENI(ctx, r)
	if err == nil {
		c.set(func() { c.created = time.Now() })
	}
	return e, err
}

func (c *lateCloud) hides() (yes bool) {
	c.set(func() { yes = !c.created.IsZero() && time.Since(c.created) < 2*time.Second })
	return yes
}

func (c *lateCloud) AttachENI(ctx context.Context, id, instance string) error {
	if c.hides() {
		return aliyun.ErrNotFound
	}
	return c.fakeCloud.AttachENI(ctx, id, instance)
}

func (c *lateCloud) DescribeENIs(ctx context.Context, f aliyun.ENIFilter) ([]aliyun.ENI, error) {
	if c.hides() && len(f.IDs) > 0 {
		return nil, nil
	}
	return c.fakeCloud.DescribeENIs(ctx, f)
}

// TestENIShownLate: an ENI that the cloud is late to show is neither given up nor made twice.
func TestENIShownLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 10)
		p := mustOpen(t, testConfig(t, cloud))
		p.config.Cloud = &lateCloud{fakeCloud: cloud}
		defer start(t, p)()
		mustAllocate(t, p, 1)
		if n := cloud.count("CreateENI"); n != 1 {
			t.Errorf("%d creations, want 1", n)
		}
	})
}
