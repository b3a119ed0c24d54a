package preflight

import (
	"fmt"
	"net/netip"
	"slices"
)

// Checks of Plan. They do not change their meaning.
const (
	CheckVSwitchOverlap        = "vswitch-overlap"
	CheckServiceOverlap        = "service-cidr-overlap"
	CheckVSwitchOutsideVPC     = "vswitch-outside-vpc"
	CheckPodCIDROutsideVPC     = "pod-cidr-outside-vpc"
	CheckVSwitchOutsidePodCIDR = "vswitch-outside-pod-cidr"
	CheckReservedRange         = "reserved-range"
	CheckNodeDNS               = "node-dns-address"

	CheckRegion               = "region"
	CheckVSwitchMissing       = "vswitch-missing"
	CheckVSwitchVPC           = "vswitch-vpc"
	CheckZone                 = "zone"
	CheckVSwitchIPv6          = "vswitch-ipv6"
	CheckSecurityGroupMissing = "security-group-missing"
	CheckSecurityGroupVPC     = "security-group-vpc"
	CheckSecurityGroupCount   = "security-group-count"
	CheckSecurityGroupTypes   = "security-group-types"
	CheckInstanceType         = "instance-type"
	CheckInstanceTypeIPv6     = "instance-type-ipv6"
	CheckAddresses            = "addresses"
	CheckRead                 = "cloud-read"
)

// Plan says what cannot work, or not well, in the address plan and in what the node is to use of the cloud. It returns
// problems and unknowns only, the worst first; checks that lack a fact say nothing, and the fact that was refused is a
// finding of the check cloud-read.
func Plan(f Facts) []Finding {
	return sorted(slices.Concat(
		f.overlaps(), f.containment(), f.reservedRanges(), f.nodeDNS(),
		f.checkPlace(), f.checkIPv6(), f.checkGroups(), f.checkCapacity(), f.unread(),
	))
}

// A network is a range of addresses and what it is for.
type network struct {
	name   string
	prefix netip.Prefix
}

// named makes networks of ranges that have no name but themselves.
func named(kind string, prefixes []netip.Prefix) (networks []network) {
	for _, p := range prefixes {
		if p.IsValid() {
			networks = append(networks, network{kind + " " + p.String(), p})
		}
	}
	return networks
}

func (f *Facts) vpcNetworks() []network {
	return named("VPC CIDR", append(slices.Clone(f.VPC.Value.CIDRs), f.VPC.Value.IPv6CIDR))
}

// vSwitchNetworks has one for each family of each vSwitch.
func (f *Facts) vSwitchNetworks() (networks []network) {
	for _, v := range f.vSwitches() {
		for _, p := range []netip.Prefix{v.CIDR, v.IPv6CIDR} {
			if p.IsValid() {
				networks = append(networks, network{"vSwitch " + v.ID, p})
			}
		}
	}
	return networks
}

func (f *Facts) podNetworks() []network     { return named("pod CIDR", f.Query.PodCIDRs) }
func (f *Facts) serviceNetworks() []network { return named("Service CIDR", f.Query.ServiceCIDRs) }

// overlaps finds ranges that must be apart: those of vSwitches from each other, and those of Services from everything
// that packets are routed to.
func (f *Facts) overlaps() (findings []Finding) {
	vSwitches := f.vSwitchNetworks()
	for i, a := range vSwitches {
		findings = append(findings, overlap(CheckVSwitchOverlap, a, vSwitches[:i], "use only one of them for pods: they cannot be of one VPC")...)
	}
	services := f.serviceNetworks()
	for i, s := range services {
		findings = append(findings, overlap(CheckServiceOverlap, s, services[:i], "leave out one of them")...)
		others := slices.Concat(f.vpcNetworks(), vSwitches, f.podNetworks())
		findings = append(findings, overlap(CheckServiceOverlap, s, others, "use a Service CIDR outside the VPC: pods take these addresses for Services and cannot reach what has them in the VPC")...)
	}
	return findings
}

func overlap(check string, a network, others []network, fix string) (findings []Finding) {
	for _, b := range others {
		if !a.prefix.Overlaps(b.prefix) {
			continue
		}
		x, y := a, b
		if y.name < x.name { // the same pair has the same name whichever is looked at first
			x, y = y, x
		}
		findings = append(findings, Finding{
			Check: check, Object: x.name + " and " + y.name, Severity: Error, Result: "overlap",
			Values: [2]string{x.prefix.String(), y.prefix.String()}, Fix: fix,
		})
	}
	return findings
}

// containment finds ranges that must lie within others and do not. A range of another family is not compared.
func (f *Facts) containment() []Finding {
	return slices.Concat(
		outside(CheckVSwitchOutsideVPC, Error, f.vSwitchNetworks(), f.vpcNetworks(), "use a vSwitch of the node's VPC"),
		outside(CheckPodCIDROutsideVPC, Error, f.podNetworks(), f.vpcNetworks(), "pods have addresses of the VPC: make the cluster's pod CIDR a part of it"),
		outside(CheckVSwitchOutsidePodCIDR, Warning, f.vSwitchNetworks(), f.podNetworks(), "widen the cluster's pod CIDR, or use a vSwitch within it: who tells pods by that range takes these for strangers"),
	)
}

func outside(check string, severity Severity, inner, outer []network, fix string) (findings []Finding) {
	for _, n := range inner {
		var ranges []netip.Prefix
		for _, o := range outer {
			if o.prefix.Addr().Is4() == n.prefix.Addr().Is4() {
				ranges = append(ranges, o.prefix)
			}
		}
		if len(ranges) == 0 || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return contains(p, n.prefix) }) {
			continue
		}
		findings = append(findings, Finding{
			Check: check, Object: n.name, Severity: severity, Result: "outside",
			Values: [2]string{n.prefix.String(), list(ranges)}, Fix: fix,
		})
	}
	return findings
}

func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// reservedRanges finds Services and pods in ranges that mean something else.
func (f *Facts) reservedRanges() (findings []Finding) {
	reserved := []network{
		{"the cloud's own services (DNS, metadata, load balancers)", netip.MustParsePrefix("100.64.0.0/10")},
		{"link-local addresses", netip.MustParsePrefix("169.254.0.0/16")},
		{"loopback addresses", netip.MustParsePrefix("127.0.0.0/8")},
		{"multicast addresses", netip.MustParsePrefix("224.0.0.0/4")},
		{"link-local addresses", netip.MustParsePrefix("fe80::/10")},
		{"multicast addresses", netip.MustParsePrefix("ff00::/8")},
	}
	for _, n := range slices.Concat(f.serviceNetworks(), f.podNetworks()) {
		for _, r := range reserved {
			if n.prefix.Overlaps(r.prefix) {
				findings = append(findings, Finding{
					Check: CheckReservedRange, Object: n.name, Severity: Error, Result: "overlap",
					Values: [2]string{n.prefix.String(), fmt.Sprintf("%s: %s", r.prefix, r.name)}, Fix: "use another range",
				})
			}
		}
	}
	return findings
}

// nodeDNS finds the listener's addresses where something else is or may be.
func (f *Facts) nodeDNS() (findings []Finding) {
	for _, addr := range f.Query.NodeDNS {
		for _, n := range slices.Concat(f.vpcNetworks(), f.vSwitchNetworks(), f.podNetworks(), f.serviceNetworks()) {
			if n.prefix.Contains(addr) {
				findings = append(findings, Finding{
					Check: CheckNodeDNS, Object: addr.String() + " and " + n.name, Severity: Error, Result: "overlap",
					Values: [2]string{addr.String(), n.prefix.String()}, Fix: "use an address that nothing else can have, such as the link-local 169.254.20.10",
				})
			}
		}
	}
	return findings
}

// unread names the facts that Plan needs and the cloud did not give.
func (f *Facts) unread() (findings []Finding) {
	for _, r := range []struct{ what, reason, action string }{
		{"instance", f.Instance.Reason, "ecs:DescribeInstances"},
		{"instance type", f.Type.Reason, "ecs:DescribeInstanceTypes"},
		{"VPC", f.VPC.Reason, "vpc:DescribeVpcs"},
		{"vSwitches", f.VSwitches.Reason, "vpc:DescribeVSwitches"},
		{"security groups", f.Groups.Reason, "ecs:DescribeSecurityGroups"},
		{"ENIs", f.Held.Reason, "ecs:DescribeNetworkInterfaces"},
	} {
		if r.reason != "" {
			findings = append(findings, Finding{
				Check: CheckRead, Object: r.what, Severity: Unknown, Result: ResultUnknown, Values: [2]string{r.reason},
				Fix: fmt.Sprintf("if it is forbidden, allow the credentials %s; the checks that need it are left out", r.action),
			})
		}
	}
	return findings
}

// list is the sorted values with commas between.
func list[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return listTexts(texts)
}
