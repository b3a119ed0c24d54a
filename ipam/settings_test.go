package ipam

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func TestSettingsAreValidated(t *testing.T) {
	manyTags := map[string]string{}
	for i := range 18 {
		manyTags[fmt.Sprint("tag-", i)] = "x"
	}
	for name, c := range map[string]struct {
		settings Settings
		want     []string // in every error, in this order
	}{
		"nothing set":       {Settings{}, nil},
		"crossed marks":     {Settings{Watermarks: Watermarks{MinIdle: 3, MaxIdle: 2}}, []string{"Watermarks.MinIdle is 3: use at most MaxIdle, which is 2"}},
		"negative marks":    {Settings{Exclusive: Watermarks{MinIdle: -1}, Watermarks: Watermarks{WarmUp: -4}}, []string{"Watermarks.WarmUp is -4: ", "Exclusive.MinIdle is -1: "}},
		"crossed ENIs":      {Settings{ENIs: ENILimits{Min: 4, Max: 3}}, []string{"ENIs.Min is 4: use at most ENIs.Max, which is 3"}},
		"ratio":             {Settings{ENIs: ENILimits{Ratio: 1.5}}, []string{"ENIs.Ratio is 1.5: "}},
		"policies":          {Settings{VSwitchPolicy: "most", ENIPolicy: "any"}, []string{"VSwitchPolicy is most: use most-free, ", "ENIPolicy is any: use balance-queues, "}},
		"times":             {Settings{Cooldown: -1, Idle: IdleReclaim{After: -1, Interval: -1, Batch: -1, Jitter: 2}}, []string{"Cooldown is -1ns", "Idle.After", "Idle.Interval", "Idle.Batch", "Idle.Jitter is 2: "}},
		"lists":             {Settings{VSwitches: []string{"a", "a"}, SecurityGroups: []string{""}}, []string{"VSwitches is [a a]: name each once", `SecurityGroups is [""]: remove`}},
		"too many groups":   {Settings{SecurityGroups: strings.Split("abcdefghijk", "")}, []string{"SecurityGroups is 11: an ENI has at most 10"}},
		"our own tag":       {Settings{Tags: map[string]string{tagOwner: "x"}}, []string{`Tags key is "nearpath": `}},
		"the vendor's tag":  {Settings{TagBlock: map[string]string{"acs:x": "y"}}, []string{`TagBlock key is "acs:x": `}},
		"too many tags":     {Settings{Tags: manyTags}, []string{"are 18: an ENI has 20 tags and 3 of them are the pool's; remove 1"}},
		"filter unlike tag": {Settings{Tags: map[string]string{"a": "1"}, TagFilter: map[string]string{"a": "2"}}, []string{`tag a of Tags is "1": TagFilter wants "2"`}},
		"blocks itself":     {Settings{Tags: map[string]string{"a": "1"}, TagBlock: map[string]string{"a": ""}}, []string{"TagBlock is map[a:]"}},
	} {
		err := c.settings.withDefaults().validate()
		text := ""
		if err != nil {
			text = err.Error()
		}
		for _, want := range c.want {
			before, after, found := strings.Cut(text, want)
			if !found {
				t.Errorf("%s: %q is not in %q", name, want, err)
			}
			_, text = before, after
		}
		if lines := strings.Count(fmt.Sprint(err), "\n") + 1; err != nil && lines != len(c.want) {
			t.Errorf("%s: %d errors, want %d: %v", name, lines, len(c.want), err)
		}
		if c.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestENILimits(t *testing.T) {
	for _, c := range []struct {
		limits ENILimits
		most   int
		want   int
	}{
		{ENILimits{}, 7, 7}, {ENILimits{Max: 3}, 7, 3}, {ENILimits{Max: 9}, 7, 7}, {ENILimits{Ratio: 0.5}, 7, 3},
		{ENILimits{Shift: -2}, 7, 5}, {ENILimits{Shift: 5}, 7, 7}, {ENILimits{Ratio: 0.1, Shift: -3}, 7, 0},
	} {
		if got := c.limits.limit(c.most); got != c.want {
			t.Errorf("%+v of %d: %d, want %d", c.limits, c.most, got, c.want)
		}
	}
}

func TestConfigureKeepsTheOldOnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustOpen(t, testConfig(t, newFakeCloud(2, 6)))
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		if err := p.Configure(Settings{Watermarks: Watermarks{MinIdle: 5, MaxIdle: 1}}); err == nil {
			t.Error("crossed watermarks were taken")
		}
		mustAllocate(t, p, 1)
		eventually(t, "the old mark", func() bool { return p.Stats().Idle == 2 })
		if err := p.Configure(Settings{Watermarks: Watermarks{MinIdle: 5, MaxIdle: 7}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new mark", func() bool { return p.Stats().Idle == 5 })
		if err := p.Configure(Settings{ENIs: ENILimits{Max: 1}}); err != nil {
			t.Fatal(err)
		}
		if got := p.Capacity(); got != (Capacity{Shared: 6, Exclusive: 1}) {
			t.Errorf("capacity is %+v", got)
		}
	})
}

// A vSwitch that is added while the pool cannot grow is used at once.
func TestConfigureAddsAVSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := twoVSwitches(2)
		c := testConfig(t, cloud)
		p := mustOpen(t, c)
		defer start(t, p)()
		mustAllocate(t, p, 1)
		mustAllocate(t, p, 2)
		time.Sleep(5 * time.Minute) // the bubble's clock jumps; the pool has tried and given up
		s := c.Settings
		s.VSwitches = []string{"vsw-a", "vsw-b"}
		if err := p.Configure(s); err != nil {
			t.Fatal(err)
		}
		if l := mustAllocate(t, p, 3); cloud.eni(l.ENI.ID).VSwitchID != "vsw-b" {
			t.Errorf("lease is on %+v", cloud.eni(l.ENI.ID))
		}
	})
}

func TestENIsAreMadeAndRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		c := testConfig(t, cloud)
		c.Settings.Tags, c.Settings.TagFilter = map[string]string{"team": "net"}, map[string]string{"pool": "a"}
		c.Settings.ResourceGroupID = "rg-1"
		p := mustOpen(t, c)
		defer start(t, p)()
		mustAllocate(t, p, 1)
		e := cloud.eni("eni-1")
		want := map[string]string{"team": "net", "pool": "a", tagOwner: testInstance, tagInstance: testInstance, tagIntent: e.Tags[tagIntent]}
		if !maps.Equal(e.Tags, want) || !e.DeleteOnRelease || cloud.groupOf["eni-1"] != "rg-1" || cloud.count("ModifyENI") > 0 {
			t.Errorf("ENI is %+v, in %q, after %d changes", e, cloud.groupOf["eni-1"], cloud.count("ModifyENI"))
		}
		// Somebody changes it; the next look at the cloud finds out.
		cloud.set(func() { cloud.enis["eni-1"].DeleteOnRelease = false })
		eventuallyIn(t, time.Hour, "repaired", func() bool { return cloud.eni("eni-1").DeleteOnRelease })
		s := c.Settings
		s.SecurityGroups = []string{"sg-3", "sg-2"}
		if err := p.Configure(s); err != nil {
			t.Fatal(err)
		}
		eventually(t, "new groups", func() bool { return slices.Equal(cloud.eni("eni-1").SecurityGroupIDs, s.SecurityGroups) })
		time.Sleep(time.Hour)
		if n := cloud.count("ModifyENI"); n != 2 {
			t.Errorf("%d changes, want 2", n)
		}
	})
}

// A refused repair is tried again, not at once, and holds nothing up.
func TestRefusedRepairWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 6)
		p := mustOpen(t, testConfig(t, cloud))
		defer start(t, p)()
		mustAllocate(t, p, 1)
		cloud.set(func() {
			cloud.enis["eni-1"].DeleteOnRelease = false
			cloud.fail = func(call string) error {
				if call == "ModifyENI" {
					return aliyun.ErrForbidden
				}
				return nil
			}
		})
		time.Sleep(time.Hour)
		if n := cloud.count("ModifyENI"); n < 5 || n > 60 {
			t.Errorf("%d attempts in an hour", n)
		}
		mustAllocate(t, p, 2)
	})
}

func TestOnlyENIsWithTheTagsAreAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(4, 2)
		own := identity{owner: testInstance, instanceID: testInstance}
		for id, extra := range map[string]map[string]string{
			"eni-bare": {}, "eni-right": {"pool": "a"}, "eni-wrong": {"pool": "b"}, "eni-blocked": {"pool": "a", "no-manage": "yes"},
		} {
			tags := own.tags("lost")
			maps.Copy(tags, extra)
			addrs := cloud.mint(aliyun.IPv4, 1)
			cloud.enis[id] = &fakeENI{ENI: aliyun.ENI{
				ID: id, MAC: "m-" + id, Type: aliyun.TypeSecondary, Status: aliyun.StatusInUse, InstanceID: testInstance, VSwitchID: "vsw-a",
				PrimaryIP: addrs[0], PrivateIPs: addrs, Tags: tags, DeleteOnRelease: true, SecurityGroupIDs: []string{"sg-1"},
			}}
		}
		c := testConfig(t, cloud)
		c.Settings.TagFilter, c.Settings.TagBlock = map[string]string{"pool": "a"}, map[string]string{"no-manage": ""}
		p := mustOpen(t, c)
		defer start(t, p)()
		l := mustAllocate(t, p, 1)
		// The others take three of the instance's four places.
		if enis := p.ENIs(); len(enis) != 1 || l.ENI.ID != "eni-right" || p.Capacity() != (Capacity{Shared: 2, Exclusive: 1}) {
			t.Errorf("ENIs are %+v, capacity %+v", enis, p.Capacity())
		}
		mustAllocate(t, p, 2)
		ctx, cancel := within(time.Hour)
		defer cancel()
		if _, err := p.Allocate(ctx, Request{Key: key(3)}); !errors.Is(err, ErrExhausted) || cloud.count("CreateENI") > 0 {
			t.Errorf("%v, %d ENIs created", err, cloud.count("CreateENI"))
		}
	})
}
