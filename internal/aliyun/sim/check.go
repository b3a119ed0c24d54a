package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/strict"
)

// complete fills in what may be left out and checks the rest. The error joins a fault for each thing that is wrong, with
// the path it has in a file.
func (c *Config) complete() error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Clock == nil {
		c.Clock = systemClock{c.Now}
	}
	c.Now = c.Clock.Now
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxCalls == 0 {
		c.MaxCalls = 100_000
	}
	if c.ClockSkew == 0 {
		c.ClockSkew = clockSkew
	}
	c.VSwitches, c.SecurityGroups = slices.Clone(c.VSwitches), slices.Clone(c.SecurityGroups)
	for i := range c.VSwitches {
		v := &c.VSwitches[i]
		v.ZoneID, v.VPCID = orDefault(v.ZoneID, c.ZoneID), orDefault(v.VPCID, c.VPCID)
	}
	for i := range c.SecurityGroups {
		g := &c.SecurityGroups[i]
		g.VPCID, g.Type = orDefault(g.VPCID, c.VPCID), orDefault(g.Type, GroupNormal)
	}
	return errors.Join(
		strict.Check(c.checkVPCs()), strict.Check(c.checkVSwitches()), strict.Check(c.checkGroupList()),
		strict.Check(c.checkTypes()), strict.Check(c.checkBehaviour()), c.checkFaults(),
	)
}

func notEmpty(path, value, fix string) strict.Rule {
	return strict.Rule{OK: value != "", Path: path, Value: value, Fix: fix}
}

func (c *Config) checkVPCs() []strict.Rule {
	v6 := c.VPCIPv6CIDR
	rules := []strict.Rule{
		notEmpty("region", c.RegionID, "name the region"),
		notEmpty("zone", c.ZoneID, "name the zone"),
		notEmpty("vpc.id", c.VPCID, "name the VPC"),
		{OK: isNet(c.VPCCIDR, aliyun.IPv4), Path: "vpc.cidr", Value: c.VPCCIDR, Fix: "use an IPv4 prefix without host bits, such as 10.0.0.0/16"},
		{
			OK: v6 == netip.Prefix{} || isNet(v6, aliyun.IPv6) && v6.Bits() <= 64, Path: "vpc.ipv6CIDR", Value: v6,
			Fix: "use an IPv6 prefix without host bits, such as 2001:db8::/56",
		},
		{OK: len(c.MoreVPCs) == 0 || c.Fabric == nil, Path: "moreVPCs", Value: len(c.MoreVPCs), Fix: "use one VPC where there are links"},
	}
	for i, p := range slices.Concat(c.SecondaryCIDRs, c.UserCIDRs) {
		path := fmt.Sprintf("vpc.secondaryCIDRs[%d]", i)
		if i >= len(c.SecondaryCIDRs) {
			path = fmt.Sprintf("vpc.userCIDRs[%d]", i-len(c.SecondaryCIDRs))
		}
		rules = append(rules, strict.Rule{OK: isNet(p, aliyun.IPv4), Path: path, Value: p, Fix: "use an IPv4 prefix without host bits"})
	}
	for i, v := range c.MoreVPCs {
		path := fmt.Sprintf("moreVPCs[%d].", i)
		same := func(o MoreVPC) bool { return o.ID == v.ID }
		rules = append(rules,
			strict.Rule{
				OK:   v.ID != "" && v.ID != c.VPCID && !slices.ContainsFunc(c.MoreVPCs[:i], same),
				Path: path + "id", Value: v.ID, Fix: "use a name that no other VPC has",
			},
			strict.Rule{OK: isNet(v.CIDR, aliyun.IPv4), Path: path + "cidr", Value: v.CIDR, Fix: "use an IPv4 prefix without host bits"})
	}
	return rules
}

// isNet reports whether p is a network of the family, without host bits.
func isNet(p netip.Prefix, f aliyun.Family) bool {
	return p.IsValid() && p == p.Masked() && aliyun.FamilyOf(p.Addr()) == f && !p.Addr().Is4In6()
}

func (c *Config) checkVSwitches() []strict.Rule {
	rules := []strict.Rule{{OK: len(c.VSwitches) > 0, Path: "vSwitches", Value: "", Fix: "list at least one vSwitch"}}
	for i, v := range c.VSwitches {
		path := fmt.Sprintf("vSwitches[%d].", i)
		within := c.cidrsOf(v.VPCID)
		rules = append(rules,
			notEmpty(path+"id", v.ID, "name the vSwitch"),
			strict.Rule{OK: within != nil, Path: path + "vpc", Value: v.VPCID, Fix: "use a VPC that exists"},
			strict.Rule{
				OK:   isNet(v.CIDR, aliyun.IPv4) && v.CIDR.Bits() <= 29 && slices.ContainsFunc(within, covers(v.CIDR)),
				Path: path + "cidr", Value: v.CIDR, Fix: fmt.Sprintf("use a prefix of at most /29 within %v", within),
			},
			strict.Rule{
				OK: v.IPv6CIDR == netip.Prefix{} || isNet(v.IPv6CIDR, aliyun.IPv6) && v.IPv6CIDR.Bits() == 64 &&
					v.VPCID == c.VPCID && c.VPCIPv6CIDR.IsValid() && covers(v.IPv6CIDR)(c.VPCIPv6CIDR),
				Path: path + "ipv6CIDR", Value: v.IPv6CIDR, Fix: fmt.Sprintf("use a /64 within vpc.ipv6CIDR, which is %q", v6Text(c.VPCIPv6CIDR)),
			})
		for _, w := range c.VSwitches[:i] {
			clash := w.ID == v.ID || w.CIDR.Overlaps(v.CIDR) || w.IPv6CIDR.Overlaps(v.IPv6CIDR)
			rules = append(rules, strict.Rule{
				OK: !clash, Path: path + "cidr", Value: v.CIDR, Fix: fmt.Sprintf("do not overlap, or share a name with, %s (%s)", w.ID, w.CIDR),
			})
		}
	}
	return rules
}

func v6Text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// cidrsOf are where a VPC's vSwitches may lie; nil: there is no such VPC.
func (c *Config) cidrsOf(vpcID string) []netip.Prefix {
	if vpcID == c.VPCID {
		return slices.Concat([]netip.Prefix{c.VPCCIDR}, c.SecondaryCIDRs)
	}
	for _, v := range c.MoreVPCs {
		if v.ID == vpcID {
			return []netip.Prefix{v.CIDR}
		}
	}
	return nil
}

// covers reports whether a prefix is inside another.
func covers(inner netip.Prefix) func(netip.Prefix) bool {
	return func(outer netip.Prefix) bool { return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr()) }
}

func (c *Config) checkGroupList() []strict.Rule {
	rules := []strict.Rule{{OK: len(c.SecurityGroups) > 0, Path: "securityGroups", Value: "", Fix: "list at least one security group"}}
	for i, g := range c.SecurityGroups {
		path := fmt.Sprintf("securityGroups[%d].", i)
		same := func(o SecurityGroup) bool { return o.ID == g.ID }
		rules = append(rules,
			strict.Rule{
				OK: g.ID != "" && !slices.ContainsFunc(c.SecurityGroups[:i], same), Path: path + "id", Value: g.ID,
				Fix: "use a name that no other security group has",
			},
			strict.Rule{OK: c.cidrsOf(g.VPCID) != nil, Path: path + "vpc", Value: g.VPCID, Fix: "use a VPC that exists"},
			strict.Rule{OK: g.Type == GroupNormal || g.Type == GroupEnterprise, Path: path + "type", Value: g.Type, Fix: "use normal or enterprise"},
			strict.Rule{OK: g.MaxMembers >= 0, Path: path + "maxMembers", Value: g.MaxMembers, Fix: "use a number of at least 0"})
	}
	return rules
}

func (c *Config) checkTypes() []strict.Rule {
	rules := []strict.Rule{{OK: len(c.InstanceTypes) > 0, Path: "instanceTypes", Value: "", Fix: "list at least one instance type"}}
	for i, t := range c.InstanceTypes {
		path := fmt.Sprintf("instanceTypes[%d].", i)
		same := func(o InstanceType) bool { return o.ID == t.ID }
		rules = append(rules,
			strict.Rule{
				OK: t.ID != "" && !slices.ContainsFunc(c.InstanceTypes[:i], same), Path: path + "id", Value: t.ID,
				Fix: "use a name that no other instance type has",
			},
			between(path+"enis", t.ENIs, 1, 1000),
			between(path+"addresses", t.AddressesPerENI, 1, 1000),
			between(path+"ipv6Addresses", t.IPv6PerENI, 0, 1000),
			between(path+"queues", t.QueuesPerENI, 0, maxQueues),
			between(path+"maxQueues", t.MaxQueuesPerENI, 0, maxQueues),
			between(path+"primaryQueues", t.PrimaryQueues, 0, maxQueues),
			between(path+"totalQueues", t.TotalQueues, 0, 1<<20))
	}
	return rules
}

func between(path string, value, least, most int) strict.Rule {
	return strict.Rule{OK: value >= least && value <= most, Path: path, Value: value, Fix: fmt.Sprintf("use a number from %d to %d", least, most)}
}

func (c *Config) checkBehaviour() []strict.Rule {
	rules := []strict.Rule{
		{OK: c.AttachFailure >= 0 && c.AttachFailure <= 1, Path: "attachFailure", Value: c.AttachFailure, Fix: "use a number from 0 to 1"},
		{OK: c.MaxENIs >= 0, Path: "maxENIs", Value: c.MaxENIs, Fix: "use a number of at least 0"},
		{OK: c.MaxCalls >= 0, Path: "maxCalls", Value: c.MaxCalls, Fix: "use a number of at least 0"},
	}
	known := c.actionNames()
	for _, action := range slices.Sorted(maps.Keys(c.Latencies)) {
		rules = append(rules, actionRule("latencies."+action, action, known))
	}
	states := []string{aliyun.StatusAttaching, aliyun.StatusDetaching, aliyun.StatusDeleting}
	for _, s := range slices.Sorted(maps.Keys(c.States)) {
		rules = append(rules, strict.Rule{OK: slices.Contains(states, s), Path: "states." + s, Value: s, Fix: "use " + strings.Join(states, " or ")})
	}
	for i, l := range c.RateLimits {
		path := fmt.Sprintf("rateLimits[%d].", i)
		rules = append(rules,
			strict.Rule{OK: l.PerMinute > 0, Path: path + "perMinute", Value: l.PerMinute, Fix: "use a number above 0"},
			strict.Rule{OK: l.Burst >= 1, Path: path + "burst", Value: l.Burst, Fix: "use a number of at least 1"})
		if l.Action != "" {
			rules = append(rules, actionRule(path+"action", l.Action, known))
		}
	}
	return rules
}

// actionNames are what latencies, faults and rate limits may name.
func (c *Config) actionNames() []string {
	names := []string{metadataCalls, assumeRoleAction}
	for key := range actions() {
		names = append(names, key.name)
	}
	slices.Sort(names)
	return names
}

func actionRule(path, action string, known []string) strict.Rule {
	return strict.Rule{OK: slices.Contains(known, action), Path: path, Value: action, Fix: "use one of " + strings.Join(known, ", ")}
}

func (c *Config) checkFaults() error {
	var errs []error
	for i, f := range c.Faults {
		errs = append(errs, strict.Check(f.check(fmt.Sprintf("faults[%d].", i), c.actionNames())))
	}
	return errors.Join(errs...)
}
