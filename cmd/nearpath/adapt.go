package main

import (
	"context"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/ipam"
)

// Components do not know each other; these types say to each what the other means.

// hostLinks lets the pool wire its ENIs.
type hostLinks struct{ host *hostnet.Host }

func (h hostLinks) ExpectENI(context.Context, ipam.LeaseENI) { h.host.Refresh() }

func (h hostLinks) EnsureENI(ctx context.Context, e ipam.LeaseENI) error {
	return h.host.EnsureENI(ctx, eniOf(e))
}

func eniOf(e ipam.LeaseENI) hostnet.ENI {
	out := hostnet.ENI{MAC: e.MAC, Slot: e.Slot}
	for _, n := range e.Nets {
		out.Nets = append(out.Nets, hostnet.Net(n))
	}
	return out
}

func (h hostLinks) RemoveENI(ctx context.Context, e ipam.LeaseENI) error {
	return h.host.RemoveENI(ctx, e.MAC)
}

// poolSettings are what the configuration says of the pool and may change while the agent runs.
func poolSettings(c config) ipam.Settings {
	p := c.Pool
	return ipam.Settings{
		Watermarks:     ipam.Watermarks{MinIdle: p.MinIdle, MaxIdle: p.MaxIdle, MinTotal: p.MinTotal, WarmUp: p.WarmUp},
		Exclusive:      ipam.Watermarks{MinIdle: p.Exclusive.MinIdle, MaxIdle: p.Exclusive.MaxIdle},
		ENIs:           ipam.ENILimits{Min: p.MinENIs, Max: p.MaxENIs, Ratio: p.ENIRatio, Shift: p.ENIShift},
		VSwitches:      c.Cloud.VSwitches,
		VSwitchPolicy:  ipam.VSwitchPolicy(c.Cloud.VSwitchPolicy),
		SecurityGroups: c.Cloud.SecurityGroups,
		ENIPolicy:      ipam.ENIPolicy(p.ENIPolicy),
		Tags:           c.Cloud.ENITags, TagFilter: c.Cloud.ENITagFilter, TagBlock: c.Cloud.ENITagBlock,
		ResourceGroupID: c.Cloud.ResourceGroup,
		Cooldown:        time.Duration(p.Cooldown), ReuseCooling: p.ReuseCooling,
		Idle: ipam.IdleReclaim{
			After: time.Duration(p.IdleReclaim.After), Interval: time.Duration(p.IdleReclaim.Interval),
			Batch: p.IdleReclaim.Batch, Jitter: p.IdleReclaim.Jitter,
		},
	}
}

// poolFamilies are those of every pod's addresses.
func poolFamilies(c config) []aliyun.Family {
	if c.Pool.Stack == "dual" {
		return []aliyun.Family{aliyun.IPv4, aliyun.IPv6}
	}
	return []aliyun.Family{aliyun.IPv4}
}
