package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/strict"
	"github.com/nearpath/nearpath/ipam"
)

// check names every field that cannot be right, its value and what to do about it. What needs the cloud to be judged is
// the business of "nearpath check config".
func (c config) check() error {
	tags := ipam.Settings{Tags: c.Cloud.ENITags, TagFilter: c.Cloud.ENITagFilter, TagBlock: c.Cloud.ENITagBlock}
	return errors.Join(tags.Validate(), strict.Check(slices.Concat(c.checkAgent(), c.Cloud.check(), c.Pool.check(), c.Network.check(), c.Egress.check(), c.Services.check(), c.DNS.check(), c.Policy.check(), c.CNI.check())))
}

func (c config) checkAgent() []strict.Rule {
	return []strict.Rule{
		{OK: c.NodeName != "", Path: "nodeName", Value: c.NodeName, Fix: "set it to the node's name in the cluster"},
		{OK: c.ClusterDomain != "", Path: "clusterDomain", Value: c.ClusterDomain, Fix: "use the cluster's domain, such as cluster.local"},
		{OK: c.Kubeconfig == "" || c.Manifests == "", Path: "manifests", Value: c.Manifests, Fix: "objects come from kubeconfig or from manifests: set one of them"},
		{OK: c.Listen.Addr().IsLoopback(), Path: "listen", Value: c.Listen, Fix: "use a loopback address"},
		{OK: filepath.IsAbs(c.Socket), Path: "socket", Value: c.Socket, Fix: "use an absolute path"},
		{OK: filepath.IsAbs(c.StateDir), Path: "stateDir", Value: c.StateDir, Fix: "use an absolute path"},
		{OK: filepath.IsAbs(c.PinDir), Path: "pinDir", Value: c.PinDir, Fix: "use an absolute path on a bpffs"},
		{OK: c.CgroupRoot != "", Path: "cgroupRoot", Value: c.CgroupRoot, Fix: "no cgroup2 is mounted: mount one, or name its directory"},
	}
}

func (c cloudConfig) check() []strict.Rule {
	return append(c.cloudAccess.check(),
		oneOf("cloud.vSwitchPolicy", c.VSwitchPolicy, "most-free", "ordered", "random"),
		strict.Rule{OK: len(c.SecurityGroups) <= 10, Path: "cloud.securityGroups", Value: len(c.SecurityGroups), Fix: "an ENI can be in 10 security groups at most"},
		strict.Rule{OK: !hasBlank(c.VSwitches), Path: "cloud.vSwitches", Value: c.VSwitches, Fix: "use the IDs of vSwitches, none of them empty or twice"},
		strict.Rule{OK: !hasBlank(c.SecurityGroups), Path: "cloud.securityGroups", Value: c.SecurityGroups, Fix: "use the IDs of security groups, none of them empty or twice"},
		strict.Rule{OK: len(c.ENITags) <= 16, Path: "cloud.eniTags", Value: len(c.ENITags), Fix: "use at most 16 tags: the cloud allows 20 and some are ours"},
	)
}

func (c poolConfig) check() []strict.Rule {
	return []strict.Rule{
		oneOf("pool.stack", c.Stack, "ipv4", "dual"),
		atLeast("pool.minIdle", c.MinIdle, 0),
		{OK: c.MaxIdle >= c.MinIdle, Path: "pool.maxIdle", Value: c.MaxIdle, Fix: fmt.Sprintf("use a number of at least pool.minIdle, which is %d", c.MinIdle)},
		atLeast("pool.minTotal", c.MinTotal, 0),
		atLeast("pool.warmUp", c.WarmUp, 0),
		positive("pool.cooldown", c.Cooldown),
		positive("pool.idleReclaim.after", c.IdleReclaim.After),
		positive("pool.idleReclaim.interval", c.IdleReclaim.Interval),
		atLeast("pool.idleReclaim.batch", c.IdleReclaim.Batch, 1),
		{OK: c.IdleReclaim.Jitter > 0 && c.IdleReclaim.Jitter <= 1, Path: "pool.idleReclaim.jitter", Value: c.IdleReclaim.Jitter, Fix: "use a fraction above 0, at most 1"},
		atLeast("pool.minENIs", c.MinENIs, 0),
		{OK: c.MaxENIs == 0 || c.MaxENIs >= c.MinENIs, Path: "pool.maxENIs", Value: c.MaxENIs, Fix: fmt.Sprintf("use 0 for what the instance type allows, or at least pool.minENIs, which is %d", c.MinENIs)},
		{OK: c.ENIRatio > 0 && c.ENIRatio <= 1, Path: "pool.eniRatio", Value: c.ENIRatio, Fix: "use a fraction above 0, at most 1"},
		oneOf("pool.eniPolicy", c.ENIPolicy, "balance-queues", "most-ips", "least-ips"),
		atLeast("pool.exclusive.max", c.Exclusive.Max, 0),
		atLeast("pool.exclusive.minIdle", c.Exclusive.MinIdle, 0),
		{
			OK: c.Exclusive.MaxIdle >= c.Exclusive.MinIdle, Path: "pool.exclusive.maxIdle", Value: c.Exclusive.MaxIdle,
			Fix: fmt.Sprintf("use a number of at least pool.exclusive.minIdle, which is %d", c.Exclusive.MinIdle),
		},
		notNegative("pool.keepFor", c.KeepFor),
	}
}

func (c egressConfig) check() []strict.Rule {
	rules := []strict.Rule{oneOf("egress.mode", c.Mode, "vpc", "node-snat", "none")}
	for i, p := range c.Exempt {
		rules = append(rules, strict.Rule{
			OK: p == p.Masked(), Path: fmt.Sprintf("egress.exempt[%d]", i), Value: p, Fix: fmt.Sprintf("use the network, %s", p.Masked()),
		})
	}
	return rules
}

func atLeast(path string, value, least int) strict.Rule {
	return strict.Rule{OK: value >= least, Path: path, Value: value, Fix: fmt.Sprintf("use a number of at least %d", least)}
}

func positive(path string, value duration) strict.Rule {
	return strict.Rule{OK: value > 0, Path: path, Value: time.Duration(value), Fix: "use a duration above 0s"}
}

func notNegative(path string, value duration) strict.Rule {
	return strict.Rule{OK: value >= 0, Path: path, Value: time.Duration(value), Fix: "use a duration of at least 0s"}
}

func oneOf(path, value string, allowed ...string) strict.Rule {
	return strict.Rule{OK: slices.Contains(allowed, value), Path: path, Value: value, Fix: "use " + strings.Join(allowed, " or ")}
}

// disjoint names the first two of the networks that overlap.
func disjoint(path string, cidrs []netip.Prefix) strict.Rule {
	for i, a := range cidrs {
		for _, b := range cidrs[:i] {
			if a.Overlaps(b) {
				return strict.Rule{Path: path, Value: a, Fix: fmt.Sprintf("it overlaps with %s: leave one of them out", b)}
			}
		}
	}
	return strict.Rule{OK: true}
}

func hasBlank(ids []string) bool {
	seen := map[string]bool{"": true}
	for _, id := range ids {
		if seen[id] {
			return true
		}
		seen[id] = true
	}
	return false
}

func valuesOf(m map[string]int) (out []int) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}
